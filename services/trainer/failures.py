"""From an exception to the failure class that decides who pays and what the user is advised."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from jinja2 import TemplateError

from domain.jobs.failures import FailureClass, MemoryShortage
from domain.training.phases import Phase

DISK_ERRNOS = {errno.ENOSPC, errno.EDQUOT}
# Rust's libraries (obstore, safetensors) keep the number of the system's error in the text alone.
DISK_TEXTS = tuple(f"(os error {number})" for number in sorted(DISK_ERRNOS))
# torch says it so for a GPU (OutOfMemoryError is a RuntimeError), a CPU, and cuBLAS's workspace.
MEMORY_TEXTS = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
DATA_ERRORS = (ValueError, KeyError, IndexError, TypeError, TemplateError)


class SegmentFailure(Exception):
    """Base of the errors that know their own class."""

    failure: FailureClass
    shortage: MemoryShortage | None = None  # of a lack of memory in a micro batch


class BadData(SegmentFailure):
    """The dataset, or a setting with this base, turned out not to work."""

    failure = FailureClass.BAD_DATA


class LossDiverged(SegmentFailure):
    """The loss or its gradient is no finite number, or is far above that of the base.

    The last checkpoint from before it was is still good.
    """

    failure = FailureClass.LOSS_DIVERGED


def classify(error: BaseException, phase: Phase) -> FailureClass:
    """The class of what ended a segment in a phase.

    Memory and disk come first, wherever in the chain of causes they are. A dataset that is not the
    approved one (ArtifactCorrupt) is the store's fault and not the user's: trainer_crashed, so that
    it is tried again. Whether a finite loss has diverged is the rule of `divergence`.
    """
    if any(is_out_of_memory(each) for each in _chain(error)):
        return FailureClass.OUT_OF_MEMORY
    if any(_disk_full(each) for each in _chain(error)):
        return FailureClass.DISK_FULL
    if isinstance(error, SegmentFailure):
        return error.failure
    if phase is Phase.MODEL_LOAD:
        return FailureClass.MODEL_LOAD_FAILED
    if phase is Phase.DATASET_PREP and isinstance(error, DATA_ERRORS):
        return FailureClass.BAD_DATA
    return FailureClass.TRAINER_CRASHED


def shortage_of(error: BaseException | None) -> MemoryShortage | None:
    """The micro batch that a memory did not hold, if that is what ended a segment."""
    return error.shortage if isinstance(error, SegmentFailure) else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what caused it, and so on."""
    current: BaseException | None = error
    while current is not None:
        yield current
        context = None if current.__suppress_context__ else current.__context__
        current = current.__cause__ or context


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, whatever caused it, says that a memory was too small."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in MEMORY_TEXTS)
    )


def _disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in DISK_ERRNOS
    return any(text in str(error) for text in DISK_TEXTS)
