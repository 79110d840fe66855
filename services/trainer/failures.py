"""Classification of exceptions. The class determines who pays and the advice to the user."""

from __future__ import annotations

import errno

from jinja2 import TemplateError

from domain.jobs.failures import FailureClass, MemoryShortage
from domain.training.phases import Phase
from infrastructure.process.full_disk import causes, lacks_space

# torch's messages for a GPU (OutOfMemoryError is a RuntimeError), for a CPU, and for cuBLAS's
# workspace.
MEMORY_TEXTS = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
DATA_ERRORS = (ValueError, KeyError, IndexError, TypeError, TemplateError)


class SegmentFailure(Exception):
    """Base class of errors that have their own failure class."""

    failure: FailureClass
    shortage: MemoryShortage | None = None  # the batch that ran out of memory


class BadData(SegmentFailure):
    """The dataset is unusable, or a hyperparameter does not work with this base model."""

    failure = FailureClass.BAD_DATA


class LossDiverged(SegmentFailure):
    """The loss or its gradient is not finite, or the loss is far above that of the base model."""

    failure = FailureClass.LOSS_DIVERGED


def classify(error: BaseException, phase: Phase) -> FailureClass:
    """Return the failure class of the error that ended a segment in this phase.

    A lack of memory or disk space anywhere in the chain of causes takes precedence.
    """
    if any(is_out_of_memory(each) for each in causes(error)):
        return FailureClass.OUT_OF_MEMORY
    if lacks_space(error):
        return FailureClass.DISK_FULL
    if isinstance(error, SegmentFailure):
        return error.failure
    if phase is Phase.MODEL_LOAD:
        return FailureClass.MODEL_LOAD_FAILED
    if phase is Phase.DATASET_PREP and isinstance(error, DATA_ERRORS):
        return FailureClass.BAD_DATA
    return FailureClass.TRAINER_CRASHED


def shortage_of(error: BaseException | None) -> MemoryShortage | None:
    """Return the batch that ran out of memory, or None."""
    return error.shortage if isinstance(error, SegmentFailure) else None


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if the error itself, ignoring its causes, reports a lack of memory."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in MEMORY_TEXTS)
    )
