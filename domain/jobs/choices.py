"""The dataset, base model, GPUs and hyperparameters that a user chooses for a job."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from domain.training.hyperparameters import Hyperparameters


@dataclass(frozen=True)
class Choices:
    """A user's choices for a job."""

    dataset_id: UUID
    base_model: str  # or the name of a fine-tuned model or checkpoint to continue from
    region: str
    gpu_type: str
    gpu_count: int
    hyperparameters: Hyperparameters
    validation_dataset_id: UUID | None = None  # None: the job holds out a part of the dataset

    @property
    def recorded(self) -> tuple[object, ...]:
        """Choices, in the form in which a plan records them."""
        return (
            self.dataset_id,
            self.validation_dataset_id,
            self.base_model,
            self.region,
            self.gpu_type,
            self.gpu_count,
            self.hyperparameters.model_dump(mode="json"),
        )
