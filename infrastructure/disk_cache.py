"""What a machine's disk holds and can be made again: the least recently used goes, in use nothing.

Who uses a folder holds a shared lock on it, which ends with its process, however that ends. Who
deletes takes the exclusive one, if nobody holds any, and a copy is out of sight before it lets go.
So nothing that is in use is deleted, and who comes a moment too late finds no copy and makes
another, never half of one.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

GIB = 1024**3

MODELS = "models"
"""Of a machine's cache, where copies of base models are."""

COPY = re.compile(r"[0-9a-f]{64}")
"""A copy's name: the hash of its manifest."""

KERNEL = re.compile(r"[a-z2-7]{51,52}(\..+)?|\.\d+\.\d+\.tmp")
"""A file's name that torch's compiler keeps, a hash; or that it was writing when it was killed."""


@dataclass(frozen=True)
class Deleted:
    """What had to go, and what is left of its kind."""

    count: int = 0
    bytes: int = 0
    left_bytes: int = 0

    def one(self, size: int) -> Deleted:
        """With one more, of so many bytes."""
        return Deleted(self.count + 1, self.bytes + size, self.left_bytes - size)


class _File(NamedTuple):
    used: float
    path: Path
    size: int


def hold(folder: Path) -> int | None:
    """Have a folder not deleted until the handle that is returned is closed; None: it is not there.

    Who compiles holds the whole folder of kernels. Waits, if at all, for what is being deleted at
    this moment. Where a file system has no locks, nothing is deleted, and nothing need be held.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_SH)
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(handle), folder.stat()):  # else it was put out of sight
            with suppress(PermissionError):  # somebody else's
                os.utime(handle)
            return handle
    os.close(handle)
    return None


def partial_of(copy: Path) -> Path:
    """Where this process makes a copy, which it holds, or deletes it; see `delete_killed`."""
    return copy.with_name(f"{copy.name}.{os.getpid()}")


def delete_killed(folder: Path) -> None:
    """Delete the copies that a process had half made, or half deleted, when it was killed."""
    for other in folder.glob("*.*"):
        name, _, process = other.name.rpartition(".")
        if COPY.fullmatch(name) and process.isdecimal():
            with suppress(OSError), _unused(other) as unused:  # a file of that name is not ours
                if unused:
                    shutil.rmtree(other, ignore_errors=True)


def trim_copies(folder: Path, most_bytes: int) -> Deleted:
    """Delete copies that nobody uses, the least recently used first, until so much is left."""
    delete_killed(folder)
    copies = sorted(_copies(folder))
    deleted = Deleted(left_bytes=sum(copy.size for copy in copies))
    for _, copy, size in copies:
        with _unused(copy) as unused:
            if not unused:
                os.utime(copy)  # whenever that began, it was used until now
                continue
            if deleted.left_bytes <= most_bytes:
                continue
            copy.rename(partial_of(copy))
        shutil.rmtree(partial_of(copy), ignore_errors=True)
        deleted = deleted.one(size)
    return deleted


def _copies(folder: Path) -> Iterator[_File]:
    for copy in folder.glob("*"):
        if COPY.fullmatch(copy.name) and copy.is_dir():
            size = sum(path.stat().st_size for path in copy.rglob("*") if path.is_file())
            yield _File(copy.stat().st_mtime, copy, size)


def trim_kernels(folder: Path, most_bytes: int) -> Deleted:
    """Delete what the compiler kept, the least recently used first, until so much is left.

    The compiler makes anew what it misses. What it was asked for it has to find a moment later, so
    that nothing is deleted while it works anywhere; what was loaded is in memory.
    """
    kernels = sorted(_kernels(folder))
    deleted = Deleted(left_bytes=sum(kernel.size for kernel in kernels))
    if deleted.left_bytes <= most_bytes:
        return deleted
    with _unused(folder) as unused:
        for _, kernel, size in kernels:
            if not unused or deleted.left_bytes <= most_bytes:
                break
            kernel.unlink(missing_ok=True)
            with suppress(OSError):  # others are in it
                kernel.parent.rmdir()
            deleted = deleted.one(size)
    return deleted


def _kernels(folder: Path) -> Iterator[_File]:
    """The compiler's files, with when they were read or written, as far as the disk notes that."""
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names if KERNEL.fullmatch(name)):
            try:
                found = path.lstat()
            except FileNotFoundError:  # it had another name while it was written
                continue
            if stat.S_ISREG(found.st_mode) and path.parent != folder:
                yield _File(max(found.st_atime, found.st_mtime), path, found.st_size)


@contextmanager
def _unused(folder: Path) -> Iterator[bool]:
    """Whether nobody uses a folder; if so, nobody begins to before this is over."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # it is in use, or there are no locks here to know by
        unused = False
    else:
        unused = True
    try:
        yield unused
    finally:
        os.close(handle)
