"""Holds one trainer: passes SIGTERM on, notes how it ended, and ends it with the local stack.

The scheduler may come and go meanwhile; what it needs to know is in the pod's directory.
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

import psutil

PR_SET_PDEATHSIG = 1
NICENESS = 5


def main(directory: Path, command: list[str]) -> int:
    """Run the command until it ends; returns 0, or 1 if another shim holds the directory."""
    lock = (directory / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 1
    os.nice(NICENESS)  # the services' few milliseconds come before hours of training
    asked, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    trainer = subprocess.Popen(command, preexec_fn=_die_with_parent)
    me = psutil.Process()
    _write(directory / "pod.json", {"pid": me.pid, "started": me.create_time()})
    _watch(trainer, asked)
    _write(directory / "exit.json", {"exit_code": trainer.returncode})
    return 0


def _watch(trainer: subprocess.Popen[bytes], asked: int) -> None:
    """Wait for the trainer to end; on SIGTERM, or when the supervisor is gone, ask it to."""
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
            trainer.wait()
            return
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


def _die_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _write(path: Path, content: dict[str, object]) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
