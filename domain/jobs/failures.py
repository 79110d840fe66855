"""Failure classes: who pays, whether EcoLink retries, and what it advises the user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from domain.core.counts import Count, Size
from domain.core.value import Value


class FailureClass(StrEnum):
    """The class of a segment's failure."""

    OUT_OF_MEMORY = "out_of_memory"
    BAD_DATA = "bad_data"  # the dataset or a setting is incompatible with the base model
    NODE_LOST = "node_lost"
    LOSS_DIVERGED = "loss_diverged"
    DISK_FULL = "disk_full"
    TRAINER_CRASHED = "trainer_crashed"
    MODEL_LOAD_FAILED = "model_load_failed"
    # The checkpoint is intact, but was saved with another configuration.
    CHECKPOINT_MISMATCH = "checkpoint_mismatch"
    TIMEOUT = "timeout"  # no progress for too long


class Payer(StrEnum):
    """The party that pays for the time of a failed segment after its last checkpoint."""

    PLATFORM = "platform"  # EcoLink credits the time
    USER = "user"


@dataclass(frozen=True)
class Failure:
    """The consequences of a failure class, and the texts that describe it to the user."""

    payer: Payer
    retried: bool  # EcoLink relaunches the job from the last checkpoint, at most three times
    sentence: str
    advice: str


class MemoryShortage(Value):
    """Details of a batch that did not fit into memory.

    The batch may have more rows than a micro-batch, because the trainer batches short examples
    together.
    """

    rows: Count  # number of examples; a preference pair is one
    tokens: Size  # length of the longest row, in tokens
    micro_batch_size: Count  # micro batch size in the plan at that time
    gradient_accumulation: Count
    peak_bytes: Size  # peak memory of the rank until then


FAILURES: Mapping[FailureClass, Failure] = MappingProxyType(
    {
        # The platform decided that the job fits into memory, so the platform pays. A retry would
        # fail in the same way. `Job` halves a batch of several examples once before it fails.
        FailureClass.OUT_OF_MEMORY: Failure(
            Payer.PLATFORM,
            False,
            "The GPU ran out of memory, although EcoLink predicted that the job would fit.",
            "Start a new job with a smaller micro batch size, a shorter max sequence length "
            "or a larger GPU.",
        ),
        FailureClass.BAD_DATA: Failure(
            Payer.USER,
            False,
            "The dataset or a setting does not work with this base model.",
            "Read the last log lines, correct the dataset or the setting that they name, and start "
            "a new job.",
        ),
        FailureClass.NODE_LOST: Failure(
            Payer.PLATFORM,
            True,
            "EcoLink lost contact with the trainer's machine.",
            "Start a new job. If it fails in the same way, ask your operator.",
        ),
        FailureClass.LOSS_DIVERGED: Failure(
            Payer.USER,
            False,
            "The loss became infinite or NaN, rose far above the base model's loss, or became "
            "worse "
            "than that of random guessing.",
            "Start a new job with a lower learning rate, such as a third of this job's.",
        ),
        FailureClass.DISK_FULL: Failure(
            Payer.PLATFORM,
            True,
            "The machine had no disk space left for the model or a checkpoint.",
            "Start a new job later, or save checkpoints less often with a larger save_steps.",
        ),
        FailureClass.TRAINER_CRASHED: Failure(
            Payer.PLATFORM,
            True,
            "The trainer ended with an unexpected error.",
            "Read the last log lines. If they do not mention your data, ask your operator.",
        ),
        FailureClass.MODEL_LOAD_FAILED: Failure(
            Payer.PLATFORM,
            True,
            "The trainer could not load the base model, or the base model is not the approved one.",
            "Start a new job with another base model, or ask your operator.",
        ),
        FailureClass.CHECKPOINT_MISMATCH: Failure(
            Payer.PLATFORM,
            False,
            "The last checkpoint is intact, but a different configuration or a newer trainer "
            "wrote it.",
            "Promote the checkpoint to a model, or start a new job. Your operator can find "
            "the cause in the last log lines.",
        ),
        FailureClass.TIMEOUT: Failure(
            Payer.PLATFORM,
            True,
            "The trainer made no progress for too long.",
            "Start a new job with a smaller micro batch size or less gradient accumulation, "
            "so that a step takes less time.",
        ),
    }
)
"""The consequences of each failure class."""


def advice_on(failure: FailureClass, shortage: MemoryShortage | None, *, halved: bool) -> str:
    """Return advice for the user. `halved`: the job already ran with half-size batches."""
    if failure is not FailureClass.OUT_OF_MEMORY or shortage is None:
        return FAILURES[failure].advice
    if shortage.rows == 1:
        tried = f"A single example of {shortage.tokens:,} tokens did not fit into memory."
    elif halved:
        tried = "A retry with half as many tokens in each batch also ran out of memory."
    else:
        return FAILURES[failure].advice
    return f"{tried} Start a new job with a shorter max sequence length or a larger GPU."
