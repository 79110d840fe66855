"""What a segment needs of whoever tells the world what it does."""

from __future__ import annotations

from typing import Any, Protocol

from domain.training.phases import Phase
from infrastructure.reports import Checkpoint, EvaluationMeasured, StepMeasured
from services.trainer.reporter import Level


class ReporterPort(Protocol):
    """Where a segment says what it does; see Reporter."""

    def enter(self, phase: Phase) -> None:
        """Begin a phase."""
        ...

    def update(self, *, now: bool = False, **fields: Any) -> None:
        """Change fields of the cumulative report."""
        ...

    def measure(self, measured: StepMeasured) -> None:
        """Tell what an optimizer step measured."""
        ...

    def evaluated(self, measured: EvaluationMeasured) -> None:
        """Tell what an evaluation measured."""
        ...

    def saved(self, checkpoint: Checkpoint) -> None:
        """Tell of a checkpoint that became durable."""
        ...

    def log(self, text: str, level: Level = "INFO") -> None:
        """Write log lines."""
        ...
