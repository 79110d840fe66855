"""The protocol between the launcher and a warm trainer: three files and one line of JSON."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from domain.training.precision import Dtype

WARM_FLAG = "--warm"
"""With this flag and a directory, a trainer waits on standard input for a WarmStart.

It exits at end of file."""

EXPECTED_BASE = "expected_base.json"
"""File in that directory with an ExpectedBase, if the next base can be predicted."""

READY = "ready"
"""File that a waiting trainer creates in its directory when it is prepared."""


class ExpectedBase(BaseModel):
    """The predicted base model of the next segment."""

    model_config = ConfigDict(frozen=True)

    ref: str
    manifest_sha256: str
    on_gpu: bool
    dtype: Dtype | None = None  # None: the machine's fastest


class WarmStart(BaseModel):
    """The segment that a waiting trainer is to run, as one line of JSON."""

    model_config = ConfigDict(frozen=True)

    directory: Path  # the pod's directory, with spec.json and trainer.log
    environment: dict[str, str]  # in addition to the trainer's own
    handed_at: float  # monotonic clock, s: the segment's time starts here

    @property
    def spec_path(self) -> Path:
        """Return the path of the segment's spec."""
        return self.directory / "spec.json"

    @property
    def line(self) -> bytes:
        """Return the line for the trainer's standard input."""
        return self.model_dump_json().encode() + b"\n"
