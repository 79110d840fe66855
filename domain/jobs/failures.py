"""Failure classes: who pays, whether it is tried again, and what the user is advised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict


class FailureClass(StrEnum):
    """Why a segment failed."""

    OUT_OF_MEMORY = "out_of_memory"
    BAD_DATA = "bad_data"  # the dataset or a setting turned out not to work at run time
    NODE_LOST = "node_lost"
    LOSS_DIVERGED = "loss_diverged"
    DISK_FULL = "disk_full"
    TRAINER_CRASHED = "trainer_crashed"
    MODEL_LOAD_FAILED = "model_load_failed"
    CHECKPOINT_MISMATCH = "checkpoint_mismatch"  # intact, but of another job or a newer trainer
    TIMEOUT = "timeout"  # no progress for too long


class Payer(StrEnum):
    """Who pays for the time of a failed segment that no checkpoint holds."""

    PLATFORM = "platform"  # it is credited back to the last checkpoint
    USER = "user"


@dataclass(frozen=True)
class Failure:
    """What follows from a failure class, and what the user reads about it."""

    payer: Payer
    retried: bool  # relaunched from the last checkpoint, a limited number of times
    sentence: str
    advice: str


class MemoryShortage(BaseModel):
    """A batch for which a GPU's memory, or the machine's, was too small.

    It may have more rows than a micro batch: short examples run together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int  # examples
    tokens: int  # of the longest, to which all are padded
    micro_batch_size: int  # of the plan at that time
    gradient_accumulation: int
    peak_bytes: int  # that the rank held at most, until then


FAILURES: Mapping[FailureClass, Failure] = MappingProxyType(
    {
        # The memory fit was our decision, so a wrong one is our cost; again, it would be as wrong.
        # Only a batch of several examples is halved first, once; see `Job`.
        FailureClass.OUT_OF_MEMORY: Failure(
            Payer.PLATFORM,
            False,
            "The GPU ran out of memory although the job was expected to fit.",
            "Start a new job with a smaller micro batch, a shorter maximum sequence length "
            "or a larger GPU.",
        ),
        FailureClass.BAD_DATA: Failure(
            Payer.USER,
            False,
            "The dataset or a setting does not work with this base model.",
            "Read the last log lines, correct the dataset or the setting that they name (a max "
            "sequence length that is too short leaves nothing to learn), and start a new job.",
        ),
        FailureClass.NODE_LOST: Failure(
            Payer.PLATFORM,
            True,
            "The machine under the trainer was lost.",
            "Start a new job, in another region if there is one.",
        ),
        FailureClass.LOSS_DIVERGED: Failure(
            Payer.USER,
            False,
            "The loss became infinite or no number at all, or was far worse in the end than that "
            "of the base model without training, or than guessing.",
            "Start a new job with a lower learning rate; a third of this one is a good next try.",
        ),
        FailureClass.DISK_FULL: Failure(
            Payer.PLATFORM,
            True,
            "The machine had no disk space left for the model or a checkpoint.",
            "Start a new job later; saving less often (save steps) needs less space.",
        ),
        FailureClass.TRAINER_CRASHED: Failure(
            Payer.PLATFORM,
            True,
            "The trainer ended with an error that it did not expect.",
            "Read the last log lines; if nothing there is about your data, tell the operator.",
        ),
        FailureClass.MODEL_LOAD_FAILED: Failure(
            Payer.PLATFORM,
            True,
            "The base model could not be loaded, or is not what was approved.",
            "Start a new job with another base model, or tell the operator.",
        ),
        FailureClass.CHECKPOINT_MISMATCH: Failure(
            Payer.PLATFORM,
            False,
            "The last checkpoint is intact, but this trainer cannot go on from it: another "
            "configuration or a newer trainer made it.",
            "What was saved is kept: make a model of it with promote, or start a new job; and tell "
            "the operator, who finds the cause in the last log lines.",
        ),
        FailureClass.TIMEOUT: Failure(
            Payer.PLATFORM,
            True,
            "The trainer made no progress for too long.",
            "Start a new job with a smaller micro batch or less gradient accumulation, "
            "so that a step takes less time.",
        ),
    }
)
"""The one table; every class has its entry."""


def advice_on(failure: FailureClass, shortage: MemoryShortage | None, *, halved: bool) -> str:
    """What the user is advised; `shortage` is of the last lack of memory in a batch, if there was.

    `halved`: batches had been made half as large by then.
    """
    if failure is not FailureClass.OUT_OF_MEMORY or shortage is None:
        return FAILURES[failure].advice
    if shortage.rows == 1:
        tried = f"A single example of {shortage.tokens:,} tokens did not fit; no batch is smaller."
    elif halved:
        tried = "It was tried again with half as many tokens in a batch, over the same steps."
    else:
        return FAILURES[failure].advice
    return f"{tried} Start a new job with a shorter maximum sequence length or a larger GPU."
