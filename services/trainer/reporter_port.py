"""The reporter interface that a segment uses."""

from __future__ import annotations

from typing import Any, Protocol

from domain.training.checkpoint import SavedCheckpoint
from domain.training.phases import Phase
from infrastructure.training.reports import EvaluationMeasured, StepMeasured
from services.trainer.reporter import Level
from services.trainer.unsent import Unsent


class ReporterPort(Protocol):
    """A reporter of a segment's progress: Reporter in rank 0, SilentReporter in the others."""

    def enter(self, phase: Phase) -> None:
        """Begin a phase."""

    def update(self, *, now: bool = False, **fields: Any) -> None:
        """Change fields of the cumulative report. If `now` is true, send it immediately."""

    def measure(self, measured: StepMeasured | EvaluationMeasured) -> None:
        """Report the metrics of an optimizer step or an evaluation."""

    @property
    def unsent(self) -> Unsent:
        """Metrics that are not sent yet."""
        return Unsent()

    def resend(self, unsent: Unsent) -> None:
        """Report the metrics that an earlier segment did not send, as those of this segment."""

    def saved(self, checkpoint: SavedCheckpoint) -> None:
        """Report a durable checkpoint."""

    def log(self, text: str, level: Level = "INFO") -> None:
        """Write log lines."""
