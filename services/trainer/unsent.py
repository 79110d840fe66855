"""Metrics that the message server has not acknowledged when a checkpoint is saved.

The checkpoint contains them. A segment that resumes from it does not repeat their steps. It sends
their metrics as its own.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from infrastructure.bus.exchange import read
from infrastructure.training.reports import EvaluationMeasured, StepMeasured

FILE = "unsent.json"


class Unsent(BaseModel):
    """Metrics of optimizer steps and evaluations, each in the order of their steps."""

    model_config = ConfigDict(frozen=True)

    steps: tuple[StepMeasured, ...] = ()
    evaluations: tuple[EvaluationMeasured, ...] = ()

    @classmethod
    def read(cls, directory: Path) -> Unsent:
        """Read a checkpoint's file, if any, or raise ValueError for an incompatible one."""
        path = directory / FILE
        return read(cls, json.loads(path.read_text())) if path.exists() else cls()

    def write(self, directory: Path) -> None:
        """Write a checkpoint's file unless it would be empty."""
        if self.steps or self.evaluations:
            (directory / FILE).write_text(self.model_dump_json())

    def of(self, segment: int, elapsed_seconds: float) -> Unsent:
        """Return the same metrics as those of a segment, at its elapsed time."""
        own = {"segment": segment, "elapsed_seconds": elapsed_seconds}
        return Unsent(
            steps=tuple(each.model_copy(update=own) for each in self.steps),
            evaluations=tuple(each.model_copy(update=own) for each in self.evaluations),
        )
