"""The plan of a job, which its owner approved."""

from __future__ import annotations

from uuid import UUID

from pydantic import JsonValue

from domain.core.value import Value
from domain.training.cautions import cautions
from domain.training.hyperparameters import Hyperparameters
from domain.training.precision import Dtype, Precision
from domain.training.start import Start
from domain.training.truncation import Truncation


class ValidationFile(Value):
    """The validation dataset of a plan."""

    dataset_id: UUID
    ref: str
    sha256: str


class Order(Value):
    """Options of a job that do not affect its price."""

    suffix: str | None = None  # a part of the model's name
    deploy: bool = False  # deploy the model as soon as it is registered
    request_sha256: str | None = None  # hash of the request; None: EcoLink compares the choices
    max_cost_micros: int | None = None  # the job pauses before its charges exceed this


class TrainingPlan(Value):
    """The data, base model, GPUs, hyperparameters and rate of an approved job."""

    dataset_id: UUID
    dataset_ref: str
    dataset_sha256: str
    # None: the job holds out a part of the dataset, chosen by the seed.
    validation: ValidationFile | None
    base_model: str
    base_ref: str
    base_manifest_sha256: str
    start: Start | None = None  # None: the job starts with a new adapter
    region: str
    gpu_type: str
    gpu_count: int
    rate_micros_per_hour: int  # of all GPUs of the job
    catalog_version: str
    # Not validated, so that jobs stay readable if the bounds change.
    hyperparameters: dict[str, JsonValue]
    # Results of the memory fit
    precision: Precision
    gradient_checkpointing: bool
    dtype: Dtype  # dtype of computations
    sequence_length: int  # in tokens
    batch_tokens: int  # maximum tokens of a batch, including padding
    required_bytes: int  # predicted peak memory of each GPU
    truncation: Truncation  # effect of sequence_length on the dataset

    @property
    def choices(self) -> tuple[object, ...]:
        """Choices of the user. The rest of the plan is derived from them."""
        return (
            self.dataset_id,
            self.validation.dataset_id if self.validation else None,
            self.start.model if self.start else self.base_model,
            self.region,
            self.gpu_type,
            self.gpu_count,
            # Includes the defaults of unset fields, like `Choices.recorded`.
            self.lora.model_dump(mode="json"),
        )

    @property
    def warnings(self) -> list[str]:
        """Warnings about the plan, for its owner."""
        truncation = self.truncation.warning
        return [*([truncation] if truncation else []), *cautions(self.lora)]

    @property
    def lora(self) -> Hyperparameters:
        """Hyperparameters, without validation."""
        return Hyperparameters.recorded(self.hyperparameters)
