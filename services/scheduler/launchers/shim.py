"""Holds one trainer: passes SIGTERM on, notes how it ended, and ends it with the local stack.

The scheduler may come and go meanwhile; what it needs to know is in the pod's directory. Started
with `--warm`, it has no pod at first: its trainer waits until a WarmStart is read from standard
input, and ends with whoever holds the other end of that, which is the scheduler.
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

from infrastructure.liveness import birth

PR_SET_PDEATHSIG = 1
NICENESS = 5
WARM = "--warm"
LINE_BYTES = 65536


def main(directory: Path, command: list[str]) -> int:
    """Run the command until it ends; returns 0, or 1 if another shim holds the directory."""
    lock = _hold(directory)
    if lock is None:
        return 1
    with lock:
        asked = _listen()
        trainer = subprocess.Popen(command, preexec_fn=_before_it_begins)
        _note_pod(directory)
        return _watch(trainer, asked, directory)


def main_warm(command: list[str]) -> int:
    """Start a trainer that waits, and be its shim when it is handed a pod.

    Returns 0, also if nothing was handed over; 1 if the trainer ended before, or the directory is
    another's.
    """
    asked = _listen()
    trainer = subprocess.Popen(command, stdin=subprocess.PIPE, preexec_fn=_before_it_begins)
    assert trainer.stdin is not None
    line = _await_line(trainer, asked)
    if not line.endswith(b"\n"):
        died = trainer.poll() is not None
        trainer.kill()
        trainer.wait()
        return int(died)
    directory = Path(json.loads(line)["directory"])
    lock = _hold(directory)
    if lock is None:
        trainer.kill()
        trainer.wait()
        return 1
    with lock:
        _redirect(directory / "trainer.log")
        # First the pod, then its segment: a pod that nobody knows of never runs one.
        _note_pod(directory)
        _hand(trainer.stdin, line)
        return _watch(trainer, asked, directory)


def _hold(directory: Path) -> IO[str] | None:
    """The lock of a pod's directory, or None if another shim has it."""
    lock = (directory / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _listen() -> int:
    """Take signals from now on; returns a handle that becomes readable with SIGTERM."""
    os.nice(NICENESS)  # the services' few milliseconds come before hours of training
    asked, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return asked


def _note_pod(directory: Path) -> None:
    _write(directory / "pod.json", {"pid": os.getpid(), "born": birth(os.getpid())})


def _await_line(trainer: subprocess.Popen[bytes], asked: int) -> bytes:
    """What is handed over: a line, or less if nothing will be."""
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


def _hand(stdin: IO[bytes], line: bytes) -> None:
    try:
        with stdin:
            stdin.write(line)
    except BrokenPipeError:
        return  # it died just now: `_watch` sees how


def _redirect(log: Path) -> None:
    """From now on what goes wrong here is told in the pod's log."""
    with log.open("ab") as file:
        for output in (1, 2):
            os.dup2(file.fileno(), output)


def _watch(trainer: subprocess.Popen[bytes], asked: int, directory: Path) -> int:
    """Note how the trainer ends; on SIGTERM, or when the supervisor is gone, ask it to."""
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
        if not ready:  # it was asked to save and exit, and its grace is over
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
    """A handle that becomes readable when the local stack's supervisor ends."""
    pid = os.environ.get("ECOLINK_SUPERVISOR_PID")
    if not pid:
        return None
    try:
        return os.pidfd_open(int(pid))
    except ProcessLookupError:
        sys.exit(1)  # the stack ended before we began


def _before_it_begins() -> None:
    """In the trainer's process: it ends with us, and a stop waits until it is ready to hear it."""
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
