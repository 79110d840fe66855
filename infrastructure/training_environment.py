"""The code, libraries and device used in training, stored next to the weights."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

ENVIRONMENT = "environment.json"
"""File name of the TrainingEnvironment of an adapter or checkpoint."""


class TrainingEnvironment(BaseModel):
    """The code, libraries and device of the training process."""

    model_config = ConfigDict(frozen=True)  # unknown fields from other versions are ignored

    version: str  # EcoLink version
    revision: str | None  # Git commit; None: installed without one
    python: str
    libraries: dict[str, str | None]  # version of each; None: not installed
    device: str  # name of the GPU, or "cpu"
    dtype: str  # dtype of the computation
