"""The protocol between the launcher and a warm trainer: three files and one line of JSON."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from domain.training.precision import Dtype

WARM_FLAG = "--warm"
"""Flag before a directory: wait for a WarmStart on standard input, and exit at its end."""

EXPECTED_BASE = "expected_base.json"
"""File in that directory with an ExpectedBase, if EcoLink can predict the next base model."""

READY = "ready"
"""File that a waiting trainer creates in its directory when it is ready to start a segment."""


class ExpectedBase(BaseModel):
    """The predicted base model of the next segment."""

    model_config = ConfigDict(frozen=True)

    ref: str
    manifest_sha256: str
    on_gpu: bool
    dtype: Dtype | None = None  # None: the fastest of the machine


class WarmStart(BaseModel):
    """The segment that a waiting trainer runs next, as one line of JSON."""

    model_config = ConfigDict(frozen=True)

    directory: Path  # directory of the pod, with spec.json and trainer.log
    environment: dict[str, str]  # variables in addition to the trainer's own
    handed_at: float  # seconds on the monotonic clock; the segment's time starts here

    @property
    def spec_path(self) -> Path:
        """Path of the segment's spec."""
        return self.directory / "spec.json"

    @property
    def line(self) -> bytes:
        """Line for the standard input of the trainer."""
        return self.model_dump_json().encode() + b"\n"
