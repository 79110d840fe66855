"""Trainers' reports for tests."""

from __future__ import annotations

from typing import Any

from domain.core.event_log import EventLog
from domain.jobs.job import Job
from infrastructure.reports import Checkpoint, Evaluation, Outcome, Phase, Report
from tests.command_context import NOW
from tests.domain.examples import ACCOUNT_ID, JOB_ID

CHECKPOINT = Checkpoint(
    ref=f"jobs/{ACCOUNT_ID}/{JOB_ID}/checkpoints/segment-1/step-10",
    manifest_sha256="c" * 64,
    step=10,
    train_loss=2.5,
    elapsed_seconds=40.7,
    total_bytes=1000,
)
EVALUATION = Evaluation(
    loss_before=3.0,
    loss_after=2.0,
    accuracy_before=0.4,
    accuracy_after=0.55,
    examples=5,
    label_tokens=400,
)


def report(n: int, phase: Phase, *, segment: int = 1, **fields: Any) -> Report:
    """The n-th report of a segment."""
    defaults = {"step": 0, "total_steps": 30, "train_examples": 95, "eval_examples": 5}
    return Report(
        account_id=ACCOUNT_ID,
        job_id=JOB_ID,
        segment=segment,
        n=n,
        sent_at=NOW,
        elapsed_seconds=fields.pop("elapsed_seconds", float(n)),
        phase=phase,
        **(defaults | fields),
    )


def failed(n: int, phase: Phase = Phase.TRAINING, **fields: Any) -> Report:
    return report(n, phase, outcome=Outcome.FAILED, error_class="OutOfMemoryError", **fields)


def topics(log: EventLog) -> list[str]:
    """The job's events after the start of its pod."""
    events = [type(event).TOPIC for event in log.events.get(JOB_ID)]  # type: ignore[attr-defined]
    return events[events.index("PodStarted") + 1 :]


def last_end(log: EventLog) -> Job.SegmentEnded:
    return [event for event in log.events.get(JOB_ID) if isinstance(event, Job.SegmentEnded)][-1]
