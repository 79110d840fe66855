"""The LoRA hyperparameters that a user chooses, with the wizard's defaults and bounds."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

ModuleName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]{1,100}$")]


class Hyperparameters(BaseModel):
    """Tier 1 (epochs to micro_batch_size) and Tier 2 (the rest) of the launch wizard.

    Unknown fields, non-finite numbers and values of another type are refused, field by field.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    epochs: int = Field(default=3, ge=1, le=100, description="Passes over the dataset.")
    learning_rate: float = Field(default=2e-4, gt=0, le=1, description="Peak step size.")
    lora_r: int = Field(default=16, ge=1, le=512, description="Rank of the adapter.")
    lora_alpha: int = Field(default=32, ge=1, le=1024, description="Scaling factor, usually 2 x r.")
    micro_batch_size: int = Field(
        default=4, ge=1, le=256, description="Examples per step on each GPU."
    )
    dropout: float = Field(default=0.05, ge=0, lt=1, description="Dropout on the adapter's input.")
    target_modules: tuple[ModuleName, ...] = Field(
        default=("q_proj", "v_proj"),
        min_length=1,
        max_length=32,
        strict=False,
        description="Names of the linear layers that the adapter modifies.",
    )
    gradient_accumulation: int = Field(
        default=4, ge=1, le=1024, description="Micro batches per step."
    )
    max_sequence_length: int | None = Field(
        default=None,
        ge=16,
        le=1_048_576,
        description="Tokens per example; the base's context if unset.",
    )
    save_steps: int = Field(
        default=50, ge=1, le=100_000, description="Optimizer steps per checkpoint."
    )
    seed: int = Field(
        default=42, ge=0, le=2**32 - 1, description="Seed of data order, dropout and init."
    )
