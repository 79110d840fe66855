"""Full disks: the space that a task needs, and errors of a full disk."""

from __future__ import annotations

import errno
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from domain.core.quantities import GIB

DISK_ERRNOS = {errno.ENOSPC, errno.EDQUOT}
# Rust libraries (obstore, safetensors) report the error number in the text only, and numpy's
# `tofile` none at all.
DISK_TEXTS = re.compile(
    "|".join(
        [
            *(rf"\(os error {number}\)" for number in sorted(DISK_ERRNOS)),
            r"^\d+ requested and \d+ w",
        ]
    )
)


class NoSpace(Exception):
    """A disk lacks the space for a task. The message is a sentence for users."""


def require_space(needed: Iterable[tuple[Path, int]], kept_free_bytes: int) -> None:
    """Raise NoSpace unless each disk has space for the bytes to write to directories on it.

    `kept_free_bytes` stays free on each disk. The directories must exist.
    """
    totals, directories = Counter[int](), dict[int, Path]()
    for directory, size in needed:
        device = directory.stat().st_dev
        totals[device] += size
        directories[device] = directory
    for device, total in totals.items():
        free = shutil.disk_usage(directories[device]).free - kept_free_bytes
        if free < total:
            raise NoSpace(
                f"EcoLink needs {total / GIB:.1f} GiB of disk space, and "
                f"{max(0, free) / GIB:.1f} GiB are free."
            )


def lacks_space(error: BaseException) -> bool:
    """Return True if the error or one of its causes reports a full disk."""
    return any(_lacks_space(each) for each in causes(error))


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, its cause, the cause of that, and so on."""
    current: BaseException | None = error
    while current is not None:
        yield current
        context = None if current.__suppress_context__ else current.__context__
        current = current.__cause__ or context


def _lacks_space(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in DISK_ERRNOS
    return DISK_TEXTS.search(str(error)) is not None
