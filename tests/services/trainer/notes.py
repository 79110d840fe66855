"""A reporter that records instead of sending."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from domain.training.checkpoint import SavedCheckpoint
from domain.training.phases import Phase
from infrastructure.reports import EvaluationMeasured, SegmentSpec, StepMeasured
from services.trainer.clock import SegmentClock
from services.trainer.lease import Lease


def on_micro_batch(loss_sum: Callable, number: int, act: Callable[[], None]) -> Callable:
    """The loss function, which calls `act` before this process's micro-batch of a number, from 1.

    In place of `training.loss_sum` it can interrupt a step.
    """
    count = 0

    def counting(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == number:
            act()
        return loss_sum(*arguments)

    return counting


def resuming(spec: SegmentSpec, *saved: SavedCheckpoint) -> SegmentSpec:
    """The next segment of a job, from saved checkpoints, the newest first."""
    return spec.model_copy(
        update={
            "segment": spec.segment + 1,
            "resume_from": tuple(saved),
            "checkpoint_prefix": f"{spec.checkpoint_prefix}-{spec.segment + 1}",
        }
    )


class Notes:
    """Records what a segment reports; may end the lease after a step."""

    def __init__(self, lease: Lease, stop_after: int | None, lapse_after: int | None) -> None:
        self.lease, self.stop_after, self.lapse_after = lease, stop_after, lapse_after
        self.fields: dict[str, Any] = {}
        self.phases: list[str] = []
        self.steps: list[StepMeasured] = []
        self.evaluations: list[EvaluationMeasured] = []
        self.checkpoints: list[SavedCheckpoint] = []
        self.lines: list[str] = []
        self.warnings: list[str] = []  # those of the lines

    def enter(self, phase: Phase) -> None:
        self.phases.append(phase.value)

    def update(self, *, now: bool = False, **fields: Any) -> None:
        self.fields |= fields

    def measure(self, measured: StepMeasured | EvaluationMeasured) -> None:
        if isinstance(measured, EvaluationMeasured):
            self.evaluations.append(measured)
            return
        self.steps.append(measured)
        if measured.step == self.stop_after:
            self.lease.request_stop()
        if measured.step == self.lapse_after:
            self.lease.clock = SegmentClock(self.lease.paid_seconds + 0.1)

    def saved(self, checkpoint: SavedCheckpoint) -> None:
        self.checkpoints.append(checkpoint)

    def log(self, text: str, level: str = "INFO") -> None:
        self.lines.append(text)
        if level == "WARNING":
            self.warnings.append(text)
