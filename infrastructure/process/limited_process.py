"""Resource-limited processes for work on users' files and templates.

The parent starts `python -m <module>`, writes a JSON request, and reads JSON lines: progress, and
then the result. The process does not inherit the settings or secrets of its parent, and ends with
it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from types import FrameType
from typing import Any, NoReturn

from infrastructure.process.role import current_role

NICENESS = 5  # lower priority than the gateway's requests
PR_SET_PDEATHSIG = 1
CPU_GRACE_SECONDS = 2
"""Seconds between SIGXCPU, which a process may handle, and SIGKILL."""

REPEAT_SECONDS = 0.2
"""Seconds after which CpuTimeExceeded is raised again, because a finalizer may swallow it."""

WALL_SECONDS_PER_CPU_SECOND = 10  # allows for a busy machine

STDERR_BYTES = 2000  # maximum size of the standard error that is logged
THREADS = "2"  # for tokenizers
ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "2",  # each arena reserves 64 MiB of address space
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # pyarrow's own one reserves 1 GiB of address space
    "RAYON_NUM_THREADS": THREADS,
    "TOKENIZERS_PARALLELISM": "true",
    "PYTHONUNBUFFERED": "1",
}
INHERITED = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "TMPDIR", "VIRTUAL_ENV")
ADDRESS_SPACE_BESIDE_MIB = 512
"""Address space that libraries and thread stacks reserve without using it."""


class Exceeded(StrEnum):
    """A resource with a limit."""

    TIME = "time"
    MEMORY = "memory"


class LimitExceeded(Exception):
    """The work exceeded its limit on CPU time or memory. The same input would fail again."""

    def __init__(self, exceeded: Exceeded) -> None:
        super().__init__(f"The work exceeded its {exceeded} limit.")
        self.exceeded = exceeded


class ProcessFailed(Exception):
    """The process ended without a result. The cause may be unrelated to its input."""


class TimedOut(ProcessFailed):
    """The process exceeded its limit on wall-clock time."""


class CpuTimeExceeded(BaseException):
    """The CPU time of a `cpu_limit` block is used up. Untrusted code does not catch it."""


@dataclass(frozen=True)
class Limits:
    """Limits on CPU seconds (of all threads together), wall-clock seconds, and MiB of memory."""

    cpu_seconds: int
    wall_seconds: float
    memory_mib: int

    @classmethod
    def for_file(
        cls, size: int, base_seconds: int, seconds_per_mib: int, memory_mib: int
    ) -> Limits:
        """Return limits whose CPU seconds grow with the `size` of a file in bytes."""
        cpu_seconds = base_seconds + seconds_per_mib * size // 1024**2
        return cls(cpu_seconds, WALL_SECONDS_PER_CPU_SECOND * cpu_seconds, memory_mib)


def run(
    module: str,
    request: Mapping[str, Any],
    limits: Limits,
    on_progress: Callable[[dict[str, Any]], object] = lambda _: None,
) -> dict[str, Any]:
    """Run a module that calls `serve`, and return its result.

    `on_progress` receives each progress line. Its errors propagate. Raise LimitExceeded if the
    process exceeds a limit, TimedOut if it takes too long, and ProcessFailed if it ends without a
    result.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=minimal_environment(),
            preexec_fn=die_with_parent,
        )
        role = current_role()
        if role is not None:
            role.children.add(process)
        overrun = threading.Event()
        timer = threading.Timer(limits.wall_seconds, _kill, [process, overrun])
        timer.daemon = True
        timer.start()
        try:
            result = _converse(process, {"limits": asdict(limits), **request}, on_progress)
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            if role is not None:
                role.children.discard(process)
        if result is None:
            raise _failure(process.returncode, overrun.is_set(), _tail(errors))
        return result


def serve(handle: Callable[[dict[str, Any], Callable[[Mapping[str, Any]], None]], Any]) -> None:
    """Read the request of `run`, apply its limits, and write the result of `handle`."""
    request = json.loads(sys.stdin.buffer.readline())
    confine(Limits(**request.pop("limits")))
    try:
        result = handle(request, lambda progress: _write({"progress": progress}))
    except MemoryError:
        _write({"exceeded": Exceeded.MEMORY})
    else:
        _write({"result": result})


def confine(limits: Limits) -> None:
    """Apply limits to this process permanently."""
    os.nice(NICENESS)
    space = (limits.memory_mib + ADDRESS_SPACE_BESIDE_MIB) * 1024**2
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    hard = limits.cpu_seconds + CPU_GRACE_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextmanager
def cpu_limit(seconds: float) -> Generator[None]:
    """Raise CpuTimeExceeded after CPU time, in the main thread, once native code returns."""
    before = signal.signal(signal.SIGPROF, _stop)
    signal.setitimer(signal.ITIMER_PROF, seconds, REPEAT_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise CpuTimeExceeded


def _converse(
    process: subprocess.Popen[bytes],
    request: Mapping[str, Any],
    on_progress: Callable[[dict[str, Any]], object],
) -> dict[str, Any] | None:
    """Send the request and read the response lines. Return the result, or None."""
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.close()
    for line in process.stdout:
        answer = json.loads(line)
        if "progress" in answer:
            on_progress(answer["progress"])
        elif "exceeded" in answer:
            raise LimitExceeded(Exceeded(answer["exceeded"]))
        else:
            return answer["result"]
    process.wait()
    return None


def _failure(returncode: int, overrun: bool, errors: str) -> Exception:
    """Return the error for a process that ended without a result."""
    if overrun:
        return TimedOut("The work exceeded its limit on wall-clock time.")
    if returncode == -signal.SIGXCPU:
        return LimitExceeded(Exceeded.TIME)
    if returncode == -signal.SIGABRT:  # Rust and C++ libraries abort when they run out of memory
        return LimitExceeded(Exceeded.MEMORY)
    return ProcessFailed(f"The process exited with {returncode}: {errors}")


def _kill(process: subprocess.Popen[bytes], overrun: threading.Event) -> None:
    overrun.set()
    process.kill()


def _tail(errors: Any) -> str:
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - STDERR_BYTES))
    return errors.read().decode(errors="replace")


def _write(answer: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def minimal_environment(prefixes: tuple[str, ...] = ()) -> dict[str, str]:
    """Return a limited process's environment, with the variables of these prefixes."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in INHERITED or name.startswith(prefixes)
    }
    return kept | ENVIRONMENT


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends. Source: prctl(2)."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
