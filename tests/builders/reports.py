"""Trainers' reports for tests."""

from __future__ import annotations

from typing import Any

from domain.core.event_log import EventLog
from domain.jobs import events
from domain.jobs.lifecycle import SegmentEnd
from domain.jobs.segments import SegmentEnding
from domain.training.checkpoint import SavedCheckpoint
from domain.training.evaluation import EvaluationResult
from infrastructure.reports import Phase, Report
from tests.builders.commands import NOW
from tests.builders.examples import ACCOUNT_ID, JOB_ID

CHECKPOINT = SavedCheckpoint(
    segment=1,
    ref=f"jobs/{ACCOUNT_ID}/{JOB_ID}/checkpoints/segment-1/step-10",
    manifest_sha256="c" * 64,
    step=10,
    train_loss=2.5,
    elapsed_seconds=40,
    total_bytes=1000,
)
EVALUATION = EvaluationResult(
    loss_before=3.0,
    loss_after=2.0,
    accuracy_before=0.4,
    accuracy_after=0.55,
    examples=5,
    label_tokens=400,
)


ENDING = {"error_class", "failure", "shortage"}


def report(
    n: int, phase: Phase, *, segment: int = 1, outcome: SegmentEnd | None = None, **fields: Any
) -> Report:
    """The n-th report of a segment; with an outcome it is the final one."""
    elapsed_seconds = fields.pop("elapsed_seconds", float(n))
    crash = {name: fields.pop(name) for name in ENDING & fields.keys()}
    if outcome is not None:
        fields["ending"] = SegmentEnding(
            reason=outcome,
            elapsed_seconds=int(elapsed_seconds),
            grace_seconds=int(fields.get("grace_seconds", 0)),
            phase_seconds=fields.get("phase_seconds", {}),
            **crash,
        )
    defaults = {"step": 0, "total_steps": 30, "train_examples": 95, "eval_examples": 5}
    return Report(
        account_id=ACCOUNT_ID,
        job_id=JOB_ID,
        segment=segment,
        n=n,
        sent_at=NOW,
        elapsed_seconds=elapsed_seconds,
        phase=phase,
        **(defaults | fields),
    )


def failed(n: int, phase: Phase = Phase.TRAINING, **fields: Any) -> Report:
    return report(n, phase, outcome=SegmentEnd.CRASHED, error_class="OutOfMemoryError", **fields)


def topics(log: EventLog) -> list[str]:
    """The job's events after the start of its pod."""
    found = [type(event).TOPIC for event in log.events.get(JOB_ID)]  # type: ignore[attr-defined]
    return found[found.index("PodStarted") + 1 :]


def last_end(log: EventLog) -> events.SegmentEnded:
    return [event for event in log.events.get(JOB_ID) if isinstance(event, events.SegmentEnded)][-1]
