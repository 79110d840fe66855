"""A program that replaces itself with another one, which ends with its parent process.

It can also switch to another user. Run it by path with `python -I -S`, so that it imports only the
standard library. It is a separate program because code between fork and exec (`preexec_fn`) is
unsafe in a process with threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1
NOBODY = 65534

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, call: str) -> None:
    """Raise OSError if a C library call failed."""
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}")


def enter_namespace() -> None:
    """Drop root's rights in a user namespace. Outside it, new files still belong to root."""
    uid, gid = os.geteuid(), os.getegid()
    check(libc.unshare(CLONE_NEWUSER), "unshare")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{NOBODY} {uid} 1"),
        ("gid_map", f"{NOBODY} {gid} 1"),
    ):
        Path(f"/proc/self/{name}").write_text(text)


def become(user: str) -> None:
    """Switch to a user: `self`, `namespace`, or `<uid>:<gid>`."""
    if user == "namespace":
        enter_namespace()
    elif user != "self":
        uid, gid = (int(part) for part in user.split(":"))
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)


def follow(parent: int, death_signal: int) -> None:
    """Let the kernel send a signal when the parent ends. End now if it has already ended."""
    check(libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0), "prctl")
    if os.getppid() != parent:
        sys.exit("the parent ended before its child started")


def main(arguments: list[str]) -> None:
    """Take the parent's process ID, death signal, user, and the program with its arguments."""
    parent, death_signal, user, *program = arguments
    become(user)
    # After the change of user, which clears the signal. The kernel keeps it across exec.
    follow(int(parent), int(death_signal))
    for number in (
        signal.SIGPIPE,
        signal.SIGXFSZ,
    ):  # exec would keep Python's SIG_IGN
        signal.signal(number, signal.SIG_DFL)
    os.execv(program[0], program)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as error:
        sys.exit(f"tether: {error}")
