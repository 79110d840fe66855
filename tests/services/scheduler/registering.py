"""A job that crashed, resumed and registers: its history, files and reports."""

from __future__ import annotations

from domain.core.event_log import EventLog
from domain.jobs import events
from domain.jobs.job import SegmentEnd
from domain.training.checkpoint import StateHashes
from infrastructure.artifacts import Artifacts, Manifest
from infrastructure.reports import Phase, Report
from infrastructure.settings import Settings
from infrastructure.training_environment import ENVIRONMENT, TrainingEnvironment
from services.scheduler.segments import Segments
from tests.builders.commands import FixedClock, command
from tests.builders.examples import ACCOUNT_ID, JOB_ID, resume_certificate
from tests.builders.history import History
from tests.builders.reports import CHECKPOINT, EVALUATION, report
from tests.services.scheduler.conftest import NotedControl
from tests.services.scheduler.fake_launcher import FakeLauncher

ADAPTER = f"jobs/{ACCOUNT_ID}/{JOB_ID}/adapter/segment-2"
WEIGHTS = "adapter_model.safetensors"
TRAINED_WITH = TrainingEnvironment(
    version="0.1.0",
    revision="f" * 40,
    python="3.11.7",
    libraries={"torch": "2.13.0", "peft": "0.21.2", "bitsandbytes": None},
    device="cpu",
    dtype="bfloat16",
)


def store_adapter(artifacts: Artifacts) -> Manifest:
    """The adapter as its trainer stores it."""
    files = {WEIGHTS: b"weights", ENVIRONMENT: TRAINED_WITH.model_dump_json().encode()}
    return artifacts.add_files(ADAPTER, Manifest(files=()), files)


def resume_after_a_crash(history: History) -> None:
    """The first segment crashes after 60 s with a checkpoint at 40 s. The second trains."""
    history.import_base()
    history.prepare_dataset()
    history.run_until("training")
    history.save_checkpoint(1, 10, 40)
    history.end_segment(1, SegmentEnd.CRASHED, 60, error_class="ProcessLost")
    history.allocate_segment(2)
    history.grant_lease(2)
    history.start_pod(2)
    with command("certify"):
        job = history.job
        state = StateHashes(weights="1", optimizer="2", random="3", position="4")
        job.certify_resume(
            2, resume_certificate(10, "checkpoints/1/10", state, (), ranks=1, differences=())
        )
        history.log.commit(job)
    history.start_training(2, step=10)


def final_report(adapter: Manifest, n: int = 9) -> Report:
    """The final report of segment 2 with its last checkpoint, evaluation and adapter."""
    saved = CHECKPOINT.model_copy(
        update={"segment": 2, "step": 30, "train_loss": 1.5, "manifest_sha256": "e" * 64}
    )
    return report(
        n,
        Phase.REGISTER,
        segment=2,
        step=30,
        checkpoint=saved,
        evaluation=EVALUATION,
        outcome=SegmentEnd.COMPLETED,
        adapter_ref=ADAPTER,
        adapter_manifest_sha256=adapter.sha256,
        elapsed_seconds=130.5,
    )


def registered(log: EventLog) -> events.Registered:
    """The event that registered the model."""
    (event,) = [each for each in log.events.get(JOB_ID) if isinstance(each, events.Registered)]
    return event


def register_model(log: EventLog, settings: Settings) -> events.Registered:
    """Run the whole history."""
    artifacts = Artifacts(settings.artifacts)
    launcher, control = FakeLauncher(), NotedControl()
    segments = Segments(log, FixedClock(), artifacts, launcher, control, settings)  # type: ignore[arg-type]
    resume_after_a_crash(History(log))
    segments.record(final_report(store_adapter(artifacts)))
    return registered(log)
