"""The shim, which is the parent process of one trainer and outlives the scheduler.

The shim forwards SIGTERM and writes the trainer's exit code to the pod's directory. It ends the
trainer if the supervisor of the local stack ends. With `--warm`, the shim has no pod at first. Its
trainer waits until the scheduler writes a WarmStart to standard input. If the scheduler closes
standard input without one, the trainer ends.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

from infrastructure.process.liveness import birth

PR_SET_PDEATHSIG = 1
NICENESS = 5
WARM = "--warm"
LINE_BYTES = 65536


def main(directory: Path, command: list[str]) -> int:
    """Run the command until it ends. Return 0, or 1 if another shim has locked the directory."""
    lock = _lock(directory)
    if lock is None:
        return 1
    with lock:
        asked = _listen()
        trainer = subprocess.Popen(command, preexec_fn=_before_exec)
        _record_pod(directory)
        return _watch(trainer, asked, directory)


def main_warm(command: list[str]) -> int:
    """Start a trainer that waits for a WarmStart, and then run its pod.

    Return 0, even without a WarmStart. Return 1 if the trainer ended early, or if another shim has
    locked the directory.
    """
    asked = _listen()
    trainer = subprocess.Popen(command, stdin=subprocess.PIPE, preexec_fn=_before_exec)
    assert trainer.stdin is not None
    line = _await_line(trainer, asked)
    if not line.endswith(b"\n"):
        died = trainer.poll() is not None
        trainer.kill()
        trainer.wait()
        return int(died)
    directory = Path(json.loads(line)["directory"])
    lock = _lock(directory)
    if lock is None:
        trainer.kill()
        trainer.wait()
        return 1
    with lock:
        with (directory / "trainer.log").open("ab") as file:
            for output in (1, 2):
                os.dup2(file.fileno(), output)
        # Create the pod before its segment starts, so that no segment runs in an unknown pod.
        _record_pod(directory)
        _pass_on(trainer.stdin, line)
        return _watch(trainer, asked, directory)


def _lock(directory: Path) -> IO[str] | None:
    """Lock the directory of a pod. Return None if another shim holds the lock."""
    lock = (directory / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _listen() -> int:
    """Handle signals. Return a file descriptor that becomes readable on SIGTERM."""
    os.nice(NICENESS)  # services take precedence over training
    asked, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return asked


def _record_pod(directory: Path) -> None:
    _write(directory / "pod.json", {"pid": os.getpid(), "born": birth(os.getpid())})


def _await_line(trainer: subprocess.Popen[bytes], asked: int) -> bytes:
    poll = select.poll()
    child, supervisor = os.pidfd_open(trainer.pid), _supervisor()
    ends = [handle for handle in (child, asked, supervisor) if handle is not None]
    for handle in (0, *ends):
        poll.register(handle, select.POLLIN)
    line = b""
    while not line.endswith(b"\n"):
        ready = {handle for handle, _ in poll.poll()}
        if ready & set(ends):
            return b""
        chunk = os.read(0, LINE_BYTES)
        if not chunk:
            return b""
        line += chunk
    return line


def _pass_on(stdin: IO[bytes], line: bytes) -> None:
    try:
        with stdin:
            stdin.write(line)
    except BrokenPipeError:
        return  # the trainer ended just now; `_watch` records it


def _watch(trainer: subprocess.Popen[bytes], asked: int, directory: Path) -> int:
    """Record the trainer's exit code. Stop the trainer on SIGTERM or if the supervisor ends."""
    poll = select.poll()
    child = os.pidfd_open(trainer.pid)
    supervisor = _supervisor()
    for handle in (child, asked, supervisor):
        if handle is not None:
            poll.register(handle, select.POLLIN)
    timeout_ms: int | None = None
    while True:
        ready = {handle for handle, _ in poll.poll(timeout_ms)}
        if child in ready:
            _write(directory / "exit.json", {"exit_code": trainer.wait()})
            return 0
        if not ready:  # the grace period after SIGTERM is over
            trainer.kill()
            continue
        if asked in ready:
            os.read(asked, 64)
        elif supervisor is not None and supervisor in ready:
            poll.unregister(supervisor)
        if timeout_ms is None:
            timeout_ms = 1000 * (int(os.environ.get("ECOLINK_GRACE_SECONDS", "30")) + 2)
            trainer.terminate()


def _supervisor() -> int | None:
    """Return a file descriptor that becomes readable when the local stack's supervisor ends."""
    pid = os.environ.get("ECOLINK_SUPERVISOR_PID")
    if not pid:
        return None
    try:
        return os.pidfd_open(int(pid))
    except ProcessLookupError:
        sys.exit(1)  # the stack ended before this process started


def _before_exec() -> None:
    """Make the trainer die with the shim, and block SIGTERM until the trainer is ready."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _write(path: Path, content: dict[str, object]) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


if __name__ == "__main__":
    if sys.argv[1] == WARM:
        sys.exit(main_warm(sys.argv[2:]))
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
