"""The code, libraries and device of a training, which are stored next to the weights."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

ENVIRONMENT = "environment.json"
"""Name of the file with the TrainingEnvironment of an adapter or checkpoint."""


class TrainingEnvironment(BaseModel):
    """The code, libraries and device of the training process."""

    model_config = ConfigDict(frozen=True)  # ignores unknown fields, which other versions may have

    version: str  # version of EcoLink
    revision: str | None  # Git commit; None: the installation has none
    python: str
    libraries: dict[str, str | None]  # version of each library; None: not installed
    device: str  # name of the GPU, or "cpu"
    dtype: str  # dtype of computations
