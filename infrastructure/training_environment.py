"""What an adapter was trained with, as its trainer writes it beside the weights."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

ENVIRONMENT = "environment.json"
"""File in the directory of an adapter or a checkpoint that holds a TrainingEnvironment."""


class TrainingEnvironment(BaseModel):
    """Code and libraries of the process that trained, and what it computed on."""

    model_config = ConfigDict(frozen=True)  # what a trainer of another version says besides is left

    version: str  # of EcoLink
    revision: str | None  # Git commit; None: installed without one
    python: str
    libraries: dict[str, str | None]  # version of each; None: not installed
    device: str  # name of the GPU, or "cpu"
    dtype: str  # that the base was multiplied in
