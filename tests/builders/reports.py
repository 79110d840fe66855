"""Trainers' reports, and what trainers store."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from unittest.mock import Mock

from domain.core.event_log import EventLog
from domain.jobs import events
from domain.jobs.lifecycle import SegmentEnd
from domain.jobs.segments import SegmentEnding
from infrastructure.artifacts.store import Artifacts, Manifest
from infrastructure.settings import Settings
from infrastructure.training.environment import ENVIRONMENT, TrainingEnvironment
from infrastructure.training.reports import Phase, Report, SegmentSpec, StepMeasured
from services.scheduler.segments import Segments
from tests.builders.commands import NOW, FixedClock
from tests.builders.examples import ACCOUNT_ID, JOB_ID, evaluation_result, saved_checkpoint
from tests.builders.history import History

HOME = f"jobs/{ACCOUNT_ID}/{JOB_ID}"
CHECKPOINT = saved_checkpoint(1, 10, 2.5, 40, ref=f"{HOME}/checkpoints/segment-1/step-10")
EVALUATION = evaluation_result(accuracy_before=0.4, accuracy_after=0.55)
WEIGHTS = "adapter_model.safetensors"
TRAINED_WITH = TrainingEnvironment(
    version="0.1.0",
    revision="f" * 40,
    python="3.11.7",
    libraries={"torch": "2.13.0", "peft": "0.21.2", "bitsandbytes": None},
    device="cpu",
    dtype="bfloat16",
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
    defaults: dict[str, Any] = {
        "step": 0,
        "total_steps": 30,
        "train_examples": 95,
        "eval_examples": 5,
    }
    return Report(
        account_id=ACCOUNT_ID,
        job_id=JOB_ID,
        segment=segment,
        n=n,
        sent_at=NOW,
        elapsed_seconds=elapsed_seconds,
        phase=phase,
        **(defaults | {"step": 0} | fields),
    )


def step_of(spec: SegmentSpec, step: int, total_steps: int) -> StepMeasured:
    """A measured step of a segment."""
    return StepMeasured(
        account_id=spec.account_id,
        job_id=spec.job_id,
        segment=spec.segment,
        step=step,
        total_steps=total_steps,
        train_loss=1.0,
        smoothed_loss=1.0,
        learning_rate=0.1,
        tokens=10,
        tokens_per_second=5.0,
        elapsed_seconds=1.0,
        measured_at=datetime.now(UTC),
    )


def training(n: int = 1, **fields: Any) -> Report:
    """The n-th report of a segment that trains."""
    return report(n, Phase.TRAINING, **fields)


def failed(n: int = 3, phase: Phase = Phase.TRAINING, **fields: Any) -> Report:
    """The final report of a trainer that ran out of memory."""
    return report(n, phase, outcome=SegmentEnd.CRASHED, error_class="OutOfMemoryError", **fields)


def adapter_ref(segment: int) -> str:
    """Where the trainer of a segment stores the adapter."""
    return f"{HOME}/adapter/segment-{segment}"


def store_adapter(artifacts: Artifacts, segment: int = 2) -> Manifest:
    """Store an adapter, as a trainer does."""
    files = {WEIGHTS: b"weights", ENVIRONMENT: TRAINED_WITH.model_dump_json().encode()}
    return artifacts.add_files(adapter_ref(segment), Manifest(files=()), files)


def completed(n: int, adapter: Manifest, segment: int = 2, **fields: Any) -> Report:
    """The final report of a segment that stored its adapter."""
    return report(
        n,
        Phase.REGISTER,
        segment=segment,
        step=30,
        evaluation=EVALUATION,
        outcome=SegmentEnd.COMPLETED,
        adapter_ref=adapter_ref(segment),
        adapter_manifest_sha256=adapter.sha256,
        **fields,
    )


def completed_resume(adapter: Manifest, n: int = 9) -> Report:
    """The final report of segment 2, with its last checkpoint."""
    saved = CHECKPOINT.model_copy(
        update={"segment": 2, "step": 30, "train_loss": 1.5, "manifest_sha256": "e" * 64}
    )
    return completed(n, adapter, checkpoint=saved, elapsed_seconds=130.5)


def register_model(log: EventLog, settings: Settings) -> events.Registered:
    """Run a job that crashes, resumes and registers its model."""
    artifacts, history = Artifacts(settings.artifacts), History(log)
    segments = Segments(log, FixedClock(), artifacts, Mock(), Mock(), settings)
    history.resume_after_a_crash(certified=True)
    segments.record(completed_resume(store_adapter(artifacts)))
    return history.last(events.Registered)
