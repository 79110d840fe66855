"""Detection of temporary errors from a lack of memory, file handles or disk space."""

from __future__ import annotations

import errno
import re
import sys

EXHAUSTED = frozenset(
    {errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO, errno.EAGAIN, errno.ENOSPC, errno.EDQUOT}
)

RUST_ERRNO = re.compile(r"\(os error (\d+)\)")
"""The error number in messages of safetensors and tokenizers, which are written in Rust."""

ALLOCATOR = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
"""Messages of torch's allocators. On a CPU, an out-of-memory error has no class of its own."""

MAX_TRIES = 8
"""Number of attempts, over about 10 min, for a deployment that was never active."""


def is_resource_exhaustion(error: BaseException) -> bool:
    """Return True if a lack of resources caused the error, directly or indirectly."""
    each: BaseException | None = error
    while each is not None:
        if _is_exhaustion(each):
            return True
        each = each.__cause__ or each.__context__
    return False


def _is_exhaustion(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno in EXHAUSTED:
        return True
    torch = sys.modules.get("torch")  # torch cannot have raised the error if it was never imported
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    if isinstance(error, RuntimeError) and ALLOCATOR.search(str(error)) is not None:
        return True
    found = RUST_ERRNO.search(str(error))
    return found is not None and int(found[1]) in EXHAUSTED
