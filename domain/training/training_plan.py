"""What a job was approved for."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from pydantic import BaseModel, ConfigDict, JsonValue

from domain.training.cautions import cautions
from domain.training.hyperparameters import Hyperparameters
from domain.training.precision import Dtype, Precision
from domain.training.truncation import Truncation


class ValidationFile(BaseModel):
    """The user's own examples to evaluate on, as they were approved."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset_id: UUID
    ref: str
    sha256: str


@dataclass(frozen=True)
class Order:
    """What a job is asked for beside what has a price."""

    suffix: str | None = None  # a part of its model's name
    deploy: bool = False  # its model, as soon as it is registered
    request_sha256: str | None = None  # what asked for it; None: the choices tell requests apart


class TrainingPlan(BaseModel):
    """What was approved: data, base, GPUs and hyperparameters, with the rate frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset_id: UUID
    dataset_ref: str
    dataset_sha256: str
    validation: ValidationFile | None  # None: a seeded part of the dataset is held out
    base_model: str
    base_ref: str
    base_manifest_sha256: str
    region: str
    gpu_type: str
    gpu_count: int
    rate_micros_per_hour: int  # of all its GPUs
    catalog_version: str
    # As recorded: today's bounds must not make yesterday's jobs unreadable.
    hyperparameters: dict[str, JsonValue]
    # Decided by the memory fit, from the choices and the dataset.
    precision: Precision
    gradient_checkpointing: bool
    dtype: Dtype | None = None  # computed with; None: what the trainer's machine is good at
    sequence_length: int | None  # tokens; None: not recorded by the first version
    batch_tokens: int | None  # that may run at once, padding included; None: a micro batch's
    required_bytes: int | None  # predicted peak of each GPU's memory; None: not recorded
    truncation: Truncation | None = None  # of the dataset, by sequence_length; None: not recorded

    @property
    def choices(self) -> tuple[object, ...]:
        """What the user chose; all else in a plan follows from it and from the catalog's state."""
        return (
            self.dataset_id,
            self.validation.dataset_id if self.validation else None,
            self.base_model,
            self.region,
            self.gpu_type,
            self.gpu_count,
            # With today's defaults for what the plan was approved without: a repeated command of
            # before has the same choices.
            self.lora.model_dump(mode="json"),
        )

    @property
    def warnings(self) -> list[str]:
        """Sentences about the plan for its owner."""
        truncation = self.truncation and self.truncation.warning
        return [*([truncation] if truncation else []), *cautions(self.lora)]

    @property
    def lora(self) -> Hyperparameters:
        """The hyperparameters, trusted as they were recorded."""
        recorded = dict(self.hyperparameters)
        modules = recorded.pop("target_modules")
        assert isinstance(modules, list)
        return Hyperparameters.model_construct(None, **recorded, target_modules=tuple(modules))
