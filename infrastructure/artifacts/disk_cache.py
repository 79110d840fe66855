"""LRU disk cache of base model copies and compiled kernels. Entries in use are never evicted.

A process that uses a folder holds a shared lock on it until it exits. Eviction requires the
exclusive lock and never waits for it. Eviction renames a copy before it releases the lock, so that
no process finds a partial copy.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

GIB = 1024**3

MODELS = "models"
"""Folder of the cache with the copies of base models."""

COPY = re.compile(r"[0-9a-f]{64}")
"""Name of a copy, which is the hash of its manifest."""

KERNEL = re.compile(r"[a-z2-7]{51,52}(\..+)?|\.\d+\.\d+\.tmp")
"""Name of a compiled kernel (a hash), or of a file left by a compiler that was killed."""


@dataclass(frozen=True)
class Deleted:
    """The number and size of evicted entries, and the size of the remaining entries."""

    count: int = 0
    bytes: int = 0
    left_bytes: int = 0

    def one(self, size: int) -> Deleted:
        """Return the totals after evicting one more entry of `size` bytes."""
        return Deleted(self.count + 1, self.bytes + size, self.left_bytes - size)


class _File(NamedTuple):
    used: float
    path: Path
    size: int


def hold(folder: Path) -> int | None:
    """Lock a folder against eviction. Return the file descriptor of the lock.

    Closing the descriptor releases the lock. Return None if the folder does not exist. A compiling
    process locks the whole kernel folder. The call waits for an eviction in progress. On a file
    system without file locks, nothing is evicted and no lock is needed.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_SH)
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(handle), folder.stat()):  # otherwise the folder was renamed
            with suppress(PermissionError):  # another user owns the folder
                os.utime(handle)
            return handle
    os.close(handle)
    return None


def partial_of(copy: Path) -> Path:
    """Return a new path for a partial copy, which no other thread uses. See `delete_killed`."""
    return copy.with_name(f"{copy.name}.{uuid4().int}")


def delete_killed(folder: Path) -> None:
    """Delete partial copies that killed processes left behind."""
    for other in folder.glob("*.*"):
        name, _, number = other.name.rpartition(".")
        if COPY.fullmatch(name) and number.isdecimal():
            with suppress(OSError), _unused(other) as unused:  # for example, `other` is a file
                if unused:
                    shutil.rmtree(other, ignore_errors=True)


def delete_damaged(copy: Path, seen: os.stat_result) -> None:
    """Delete a damaged copy (`seen`), even if it is in use, but not a newer one at its path."""
    with suppress(FileNotFoundError):  # another process or thread was faster
        if os.path.samestat(copy.stat(), seen):
            shutil.rmtree(copy.rename(partial_of(copy)), ignore_errors=True)


def trim_copies(folder: Path, max_bytes: int) -> Deleted:
    """Evict unused copies, the least recently used first, until at most `max_bytes` are left."""
    delete_killed(folder)
    copies = sorted(_copies(folder))
    deleted = Deleted(left_bytes=sum(copy.size for copy in copies))
    for _, copy, size in copies:
        try:
            with _unused(copy) as unused:
                if not unused:
                    os.utime(copy)  # marks the copy as just used
                    continue
                if deleted.left_bytes <= max_bytes:
                    continue
                evicted = copy.rename(partial_of(copy))
        except FileNotFoundError:  # another process or thread deleted it
            deleted = replace(deleted, left_bytes=deleted.left_bytes - size)
            continue
        shutil.rmtree(evicted, ignore_errors=True)
        deleted = deleted.one(size)
    return deleted


def _copies(folder: Path) -> Iterator[_File]:
    for copy in folder.glob("*"):
        if COPY.fullmatch(copy.name) and copy.is_dir():
            try:
                size = sum(path.stat().st_size for path in copy.rglob("*") if path.is_file())
                used = copy.stat().st_mtime
            except FileNotFoundError:  # another process or thread deleted it
                continue
            yield _File(used, copy, size)


def trim_kernels(folder: Path, max_bytes: int) -> Deleted:
    """Evict compiled kernels, the least recently used first, until at most `max_bytes` are left.

    Nothing is evicted while a compiler runs, because it expects to find the kernels that it has
    just written. Kernels in use are loaded into memory, so their files can be evicted.
    """
    kernels = sorted(_kernels(folder))
    deleted = Deleted(left_bytes=sum(kernel.size for kernel in kernels))
    if deleted.left_bytes <= max_bytes:
        return deleted
    with _unused(folder) as unused:
        for _, kernel, size in kernels:
            if not unused or deleted.left_bytes <= max_bytes:
                break
            kernel.unlink(missing_ok=True)
            with suppress(OSError):  # the folder is not empty
                kernel.parent.rmdir()
            deleted = deleted.one(size)
    return deleted


def _kernels(folder: Path) -> Iterator[_File]:
    """Yield the compiler's files with their last use, or change without access times."""
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names if KERNEL.fullmatch(name)):
            try:
                found = path.lstat()
            except FileNotFoundError:  # the file was renamed meanwhile
                continue
            if stat.S_ISREG(found.st_mode) and path.parent != folder:
                yield _File(max(found.st_atime, found.st_mtime), path, found.st_size)


@contextmanager
def _unused(folder: Path) -> Iterator[bool]:
    """Yield True if the folder is unused, and then keep it so during the block."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # the folder is in use, or file locks are unsupported
        unused = False
    else:
        unused = True
    try:
        # Otherwise the folder was renamed, and a process may use a new one of this name.
        yield unused and os.path.samestat(os.fstat(handle), folder.stat())
    finally:
        os.close(handle)
