"""The code, libraries and device of a training, stored beside the weights."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

ENVIRONMENT = "environment.json"
"""File name of the TrainingEnvironment of an adapter or checkpoint."""


class TrainingEnvironment(BaseModel):
    """Code, libraries and device of the training process."""

    model_config = ConfigDict(frozen=True)  # ignores fields of other versions

    version: str  # of EcoLink
    revision: str | None  # Git commit; None: installed without one
    python: str
    libraries: dict[str, str | None]  # version of each; None: not installed
    device: str  # name of the GPU, or "cpu"
    dtype: str  # of the computation
