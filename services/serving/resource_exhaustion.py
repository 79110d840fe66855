"""Memory, files or disk that this machine lacks now: no fault of the weights, and it passes."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator

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
