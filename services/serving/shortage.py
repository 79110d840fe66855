"""Memory, files or disk that this machine lacks now: no fault of the weights, and it passes."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

SHORT = frozenset(
    {
        errno.ENOMEM,
        errno.EMFILE,
        errno.ENFILE,
        errno.EIO,
        errno.EAGAIN,
        errno.ENOSPC,
        errno.EDQUOT,
    }
)

RUST_ERRNO = re.compile(r"\(os error (\d+)\)")
"""How safetensors and tokenizers, which are written in Rust, tell the number of an OSError."""

ALLOCATOR = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
"""How torch's allocators begin, also where the error has no class of its own, as on a CPU."""

FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(minutes=5)

MOST_TRIES = 8
"""Of what was never served: for ten minutes, after which nobody would think that it still comes."""


def is_shortage(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that the machine lacks something now."""
    return any(_is_short(each) for each in _origins(error))


def _is_short(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno in SHORT:
        return True
    torch = sys.modules.get("torch")  # what was never imported raised nothing
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    if isinstance(error, RuntimeError) and ALLOCATOR.search(str(error)) is not None:
        return True
    told = RUST_ERRNO.search(str(error))
    return told is not None and int(told[1]) in SHORT


def _origins(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


@dataclass(frozen=True)
class Pause:
    """When something is tried again, how long that was put off, and how often it was."""

    until: datetime
    length: timedelta
    tries: int


class Postponed:
    """Deployments that are tried again later, each after twice the time that it waited before.

    Kept in memory alone: a process that starts tries everything anyway.
    """

    def __init__(self) -> None:
        self._pauses: dict[UUID, Pause] = {}

    def put_off(self, deployment_id: UUID, now: datetime) -> timedelta:
        """Try it again later; returns in how long."""
        before = self._pauses.get(deployment_id)
        length = FIRST_PAUSE if before is None else min(2 * before.length, LONGEST_PAUSE)
        self._pauses[deployment_id] = Pause(now + length, length, self.tries(deployment_id) + 1)
        return length

    def tries(self, deployment_id: UUID) -> int:
        """How often it was put off since it was settled."""
        before = self._pauses.get(deployment_id)
        return 0 if before is None else before.tries

    def settled(self, deployment_id: UUID) -> None:
        """There is nothing to try any more."""
        self._pauses.pop(deployment_id, None)

    def due(self, now: datetime) -> list[UUID]:
        """What is to be tried now, in the order in which it was put off first: bases come first."""
        return [id for id, pause in list(self._pauses.items()) if pause.until <= now]
