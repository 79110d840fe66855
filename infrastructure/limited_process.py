"""Processes with limits on time and memory, for work on files and templates from users.

The parent starts `python -m <module>`, writes one JSON request and reads JSON lines: progress, and
the result last. The process gets no setting and no secret of its parent, and ends with it.
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

NICENESS = 5  # requests of the gateway come first
PR_SET_PDEATHSIG = 1
CPU_GRACE_SECONDS = 2
"""Between the signal that a process may not survive, and the one that it cannot."""

REPEAT_SECONDS = 0.2
"""After which CpuTimeExceeded is raised again: a finaliser may have swallowed it."""

STDERR_BYTES = 2000  # of a failed process, for the log
THREADS = "2"  # that tokenizers compute with
ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "2",  # each arena reserves 64 MiB of address space
    "RAYON_NUM_THREADS": THREADS,
    "TOKENIZERS_PARALLELISM": "true",
    "PYTHONUNBUFFERED": "1",
}
INHERITED = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "TMPDIR", "VIRTUAL_ENV")
ADDRESS_SPACE_BESIDE_MIB = 512
"""What libraries and thread stacks reserve of the address space and never touch."""


class Exceeded(StrEnum):
    """The resource that ran out."""

    TIME = "time"
    MEMORY = "memory"


class LimitExceeded(Exception):
    """The work used up its CPU time or its memory: the same input would do so again."""

    def __init__(self, exceeded: Exceeded) -> None:
        super().__init__(f"the work exceeded its {exceeded} limit")
        self.exceeded = exceeded


class ProcessFailed(Exception):
    """The process ended without a result, which may not be the fault of its input."""


class CpuTimeExceeded(BaseException):
    """Raised inside `cpu_limit`. No `except Exception` of foreign code may catch it."""


@dataclass(frozen=True)
class Limits:
    """CPU seconds of all threads together, wall-clock seconds, and MiB of memory."""

    cpu_seconds: int
    wall_seconds: float
    memory_mib: int


def run(
    module: str,
    request: Mapping[str, Any],
    limits: Limits,
    on_progress: Callable[[dict[str, Any]], object] = lambda _: None,
) -> dict[str, Any]:
    """Run a module's `main` on a request; returns its result.

    Raises LimitExceeded and ProcessFailed, and what `on_progress` raises.
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
        if result is None:
            raise _failure(process.returncode, overrun.is_set(), _tail(errors))
        return result


def serve(handle: Callable[[dict[str, Any], Callable[[Mapping[str, Any]], None]], Any]) -> None:
    """The other side of `run`: read the request, apply its limits, answer with the result."""
    request = json.loads(sys.stdin.buffer.readline())
    confine(Limits(**request.pop("limits")))
    try:
        result = handle(request, lambda progress: _write({"progress": progress}))
    except MemoryError:
        _write({"exceeded": Exceeded.MEMORY})
    else:
        _write({"result": result})


def confine(limits: Limits) -> None:
    """Apply limits to this process for good."""
    os.nice(NICENESS)
    space = (limits.memory_mib + ADDRESS_SPACE_BESIDE_MIB) * 1024**2
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    hard = limits.cpu_seconds + CPU_GRACE_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextmanager
def cpu_limit(seconds: float) -> Generator[None]:
    """Raise CpuTimeExceeded within when this process has computed for so long.

    Main thread only, and not nested. Code that is not Python's is interrupted when it returns.
    """
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
    """Send the request and read to the end; returns the result, None without one."""
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
    """The error that the end of a process without a result means."""
    if overrun:
        return ProcessFailed("it took too long, but did not compute all the time")
    if returncode == -signal.SIGXCPU:
        return LimitExceeded(Exceeded.TIME)
    if returncode == -signal.SIGABRT:  # how libraries in Rust and C++ run out of memory
        return LimitExceeded(Exceeded.MEMORY)
    return ProcessFailed(f"it ended with {returncode}: {errors}")


def _kill(process: subprocess.Popen[bytes], overrun: threading.Event) -> None:
    overrun.set()
    process.kill()


def _tail(errors: Any) -> str:
    """The end of what a process wrote on standard error."""
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - STDERR_BYTES))
    return errors.read().decode(errors="replace")


def _write(answer: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def minimal_environment(prefixes: tuple[str, ...] = ()) -> dict[str, str]:
    """The environment of a limited process: no setting of EcoLink but names with some prefixes."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in INHERITED or name.startswith(prefixes)
    }
    return kept | ENVIRONMENT


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends. Source: prctl(2)."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
