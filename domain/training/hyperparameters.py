"""The LoRA hyperparameters that a user chooses, with the wizard's defaults and bounds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Schedule = Literal["cosine", "linear"]
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
    schedule: Schedule = Field(
        default="cosine", description="How the learning rate falls to zero after the warm-up."
    )
    warmup_share: float = Field(
        default=0.03, ge=0, le=0.5, description="Share of the steps in which it rises to its peak."
    )
    weight_decay: float = Field(
        default=0.01, ge=0, le=1, description="AdamW's, on the adapter's weights."
    )
    max_grad_norm: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        description="Gradients with a larger norm are scaled down to it.",
    )
    save_steps: int = Field(
        default=50, ge=1, le=100_000, description="Optimizer steps per checkpoint."
    )
    eval_steps: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Optimizer steps per evaluation on held-out examples; save_steps if unset. "
        "A step with the lowest loss so far is saved.",
    )
    seed: int = Field(
        default=42, ge=0, le=2**32 - 1, description="Seed of data order, dropout and init."
    )

    @property
    def evaluation_steps(self) -> int:
        """Optimizer steps from one evaluation to the next."""
        return self.eval_steps or self.save_steps

    def examples_per_step(self, ranks: int) -> int:
        """The effective batch: examples of one full optimizer step, on all GPUs together."""
        return self.micro_batch_size * self.gradient_accumulation * ranks
