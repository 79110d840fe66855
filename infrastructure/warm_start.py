"""How a trainer is started ahead of its segment, and how it is handed one: files and one line."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from domain.training.precision import Dtype

WARM_FLAG = "--warm"
"""A trainer that is started with this and a directory waits on its standard input for a WarmStart.

End of file instead of it ends the trainer."""

EXPECTED_BASE = "expected_base.json"
"""In that directory, if the base of the next segment can be guessed: an ExpectedBase."""

READY = "ready"
"""File that a waiting trainer makes in its directory when it has nothing left to prepare."""


class ExpectedBase(BaseModel):
    """The base model that the next segment will probably train."""

    model_config = ConfigDict(frozen=True)

    ref: str
    manifest_sha256: str
    on_gpu: bool
    dtype: Dtype | None = None  # None: what the machine is good at


class WarmStart(BaseModel):
    """The segment that a waiting trainer is to run; one line of JSON."""

    model_config = ConfigDict(frozen=True)

    directory: Path  # of the pod: its spec.json is there, and trainer.log takes what is printed
    environment: dict[str, str]  # beside what it was started with
    handed_at: float  # of the machine's monotonic clock, s: the segment's time counts from here

    @property
    def spec_path(self) -> Path:
        """The segment's spec."""
        return self.directory / "spec.json"

    @property
    def line(self) -> bytes:
        """What is written to the trainer's standard input."""
        return self.model_dump_json().encode() + b"\n"
