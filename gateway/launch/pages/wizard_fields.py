"""The wizard's fields: how each is called, what it does, and which values it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from annotated_types import Ge, Gt, Le, Lt
from pydantic import JsonValue

from domain.training.hyperparameters import Hyperparameters


class Field(NamedTuple):
    """A field as people know it."""

    label: str
    purpose: str = ""


TIER_1: Mapping[str, Field] = {
    "epochs": Field("Epochs", "How many passes over the dataset"),
    "learning_rate": Field(
        "Learning rate",
        "Step size during training; 10× a full fine-tuning learning rate is typical for LoRA SFT",
    ),
    "lora_r": Field("LoRA r", "Rank of the adapter — capacity vs. size tradeoff"),
    "lora_alpha": Field("LoRA alpha", "Scaling factor for the adapter (usually 2 × r)"),
    "micro_batch_size": Field("Micro batch size", "Per-step batch on each GPU"),
}
"""Most users stop here."""

TIER_2: Mapping[str, Field] = {
    "dropout": Field("Dropout", "Regularization on the adapter; small values 0.0–0.1"),
    "target_modules": Field(
        "Target modules",
        "Which projection layers the adapter modifies (default: q_proj, v_proj)",
    ),
    "gradient_accumulation": Field(
        "Gradient accumulation", "Larger effective batch without more VRAM"
    ),
    "max_sequence_length": Field(
        "Max sequence length",
        "Truncate examples longer than this (defaults to base model's context)",
    ),
    "save_steps": Field("Save steps", "How often to checkpoint mid-epoch"),
    "seed": Field("Seed", "Reproducibility"),
}
"""Advanced."""

FIELDS: Mapping[str, Field] = {
    "dataset": Field("Dataset"),
    "validation_dataset": Field("Validation dataset"),
    "base_model": Field("Base model"),
    "suffix": Field("Job name"),
    "gpu_type": Field("GPU type"),
    "gpu_count": Field("GPU count"),
    "region": Field("Region"),
    **TIER_1,
    **TIER_2,
}

UNSEEN: Mapping[str, str] = {
    name: name.replace("_", " ") for name in Hyperparameters.model_fields if name not in FIELDS
}
"""Hyperparameters that the wizard does not ask for, but keeps of a job that it begins from."""

UNPRICED = frozenset({"suffix", "learning_rate", "dropout", "seed"})
"""Fields on which the price does not depend: while they are wrong, it is shown all the same."""

WEIGHTLESS = UNPRICED | {"epochs", "save_steps", "gradient_accumulation"}
"""Fields on which the memory does not depend."""


def label_of(name: str) -> str:
    """How a hyperparameter is called; one that the wizard does not ask for by its own name."""
    return FIELDS[name].label if name in FIELDS else name.replace("_", " ").capitalize()


def said(value: JsonValue) -> str:
    """A hyperparameter's value as people read it; a dash for one that was left to the platform."""
    if value is None:
        return "—"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def is_whole(name: str) -> bool:
    """Whether a hyperparameter is a whole number."""
    return Hyperparameters.model_fields[name].annotation in (int, int | None)


def is_number(name: str) -> bool:
    """Whether a hyperparameter is a number."""
    return is_whole(name) or Hyperparameters.model_fields[name].annotation is float


def wanted(name: str) -> str:
    """Which numbers a hyperparameter takes, as a sentence: what bounds the API bounds this."""
    label = FIELDS[name].label if name in FIELDS else UNSEEN[name]
    kind = "a whole number" if is_whole(name) else "a number"
    return f"{label} must be {kind} {_bounds(name)}."


def _bounds(name: str) -> str:
    low, high = "", ""
    for bound in Hyperparameters.model_fields[name].metadata:
        match bound:
            case Ge(ge=least):
                low = f"from {least:,}"
            case Gt(gt=least):
                low = f"above {least:,}"
            case Le(le=most):
                high = f"to {most:,}"
            case Lt(lt=most):
                high = f"to below {most:,}"
            case _:
                pass
    if low.startswith("above"):
        high = high.replace("to", "and at most", 1)
    return f"{low} {high}"
