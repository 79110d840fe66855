"""The start of a job from the adapter of an earlier job, instead of from a new adapter."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from domain.core.errors import Invalid
from domain.core.value import Value
from domain.training.hyperparameters import Hyperparameters, written

SHAPE = ("lora_r", "lora_alpha", "use_rslora", "use_dora", "target_modules")
"""Hyperparameters that determine the shape and scale of an adapter. A job cannot change them."""

PREFIX, CHECKPOINT = "ft:", ":ckpt-step-"
"""Beginning of the name of a fine-tuned model, and the part of a name that precedes a step."""

JobOfModel = Callable[[UUID, str], UUID | None]
"""A function of account and model name that returns the ID of the job that made the model."""


class Start(Value):
    """The adapter with which a job starts."""

    model: str  # name of the model or checkpoint
    job_id: UUID  # job that trained it
    step: int | None  # step of the checkpoint; None: the registered model
    ref: str  # artifact prefix of the adapter
    manifest_sha256: str


def is_fine_tuned(name: str) -> bool:
    """Return True for the name of a fine-tuned model or checkpoint, and False for a base model."""
    return name.startswith(PREFIX)


def split_checkpoint(name: str) -> tuple[str, int | None]:
    """Return the name of the model, and the step if the name is that of a checkpoint."""
    model, found, step = name.rpartition(CHECKPOINT)
    return (model, int(step)) if found and step.isdecimal() else (name, None)


def inherited(own: Hyperparameters, parent: Hyperparameters, name: str) -> Hyperparameters:
    """Return hyperparameters with the shape of the parent's adapter.

    The target modules of both are names of layers: `all-linear` is resolved before.
    Raise Invalid, with the name of the field, if `own` sets another shape.
    """
    for field in SHAPE:
        wanted, given = getattr(parent, field), getattr(own, field)
        same = given == wanted or (field == "target_modules" and sorted(wanted) == sorted(given))
        if field in own.model_fields_set and not same:
            shown = written(wanted)
            raise Invalid(
                f"The adapter of {name} has {field} {shown}, and a job that continues it cannot "
                f"change that. Set {field} to {shown}, or leave it out.",
                field=field,
            )
    return own.model_copy(update={field: getattr(parent, field) for field in SHAPE})
