"""A model's card and provenance."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from domain.core.errors import VersionConflict
from domain.core.event_log import EventLog
from domain.jobs import events
from domain.jobs.job import JobStatus
from infrastructure.artifacts import Artifacts, Manifest
from infrastructure.training_environment import ENVIRONMENT
from services.scheduler.documents import document
from services.scheduler.job_history import JobHistory
from services.scheduler.model_card import CARD
from services.scheduler.provenance import PROVENANCE, Provenance
from services.scheduler.segment_spec import job_prefix
from services.scheduler.segments import Segments
from tests.builders.examples import ACCOUNT_ID, DATASET_ID, JOB_ID, PLAN
from tests.builders.history import History
from tests.builders.reports import (
    EVALUATION,
    TRAINED_WITH,
    WEIGHTS,
    adapter_ref,
    completed_resume,
    store_adapter,
)


@pytest.fixture
def adapter(artifacts: Artifacts) -> Manifest:
    """The adapter that the trainer stored."""
    return store_adapter(artifacts)


@pytest.fixture
def resumed(history: History, segments: Segments) -> Segments:
    """Records the reports of the second segment."""
    history.resume_after_a_crash(certified=True)
    return segments


def stored(artifacts: Artifacts) -> Provenance:
    return Provenance.model_validate_json(artifacts.get(f"{adapter_ref(2)}/{PROVENANCE}"))


def test_the_provenance_describes_the_job(
    log: EventLog, history: History, resumed: Segments, artifacts: Artifacts, adapter: Manifest
) -> None:
    resumed.record(completed_resume(adapter))
    told = stored(artifacts)
    assert (told.model, told.job_id, told.account_id) == (
        history.job.model_name,
        JOB_ID,
        ACCOUNT_ID,
    )
    assert told.job_version == history.last(events.Registered).originator_version - 1
    assert told.dataset.model_dump() == {
        "id": DATASET_ID,
        "sha256": PLAN.dataset_sha256,
        "uploaded_sha256": "a" * 64,
    }
    assert (told.base.name, told.base.manifest_sha256) == ("tiny", PLAN.base_manifest_sha256)
    assert told.hyperparameters == PLAN.hyperparameters
    assert told.seed == PLAN.lora.seed
    assert [(each.segment, each.step) for each in told.checkpoints] == [(1, 10), (2, 30)]
    assert [each.manifest_sha256 for each in told.checkpoints] == ["c" * 64, "e" * 64]
    (resume,) = told.resumes
    assert (resume.segment, resume.step, resume.manifest_sha256) == (2, 10, "c" * 64)
    assert (resume.certified, resume.unchecked) == (True, ())
    assert [(each.segment, each.step, each.gpu_count) for each in told.segments] == [
        (1, 0, 1),
        (2, 10, 1),
    ]
    assert told.evaluation is not None
    assert told.evaluation.loss_after == EVALUATION.loss_after
    assert told.evaluation.accuracy_after == EVALUATION.accuracy_after
    assert told.environment == TRAINED_WITH
    assert told.files == adapter.files


def test_an_uncertified_resume_has_its_step(log: EventLog, history: History) -> None:
    history.run_with_a_crash()
    (resume,) = JobHistory(log.events.get(JOB_ID)).resumes
    assert (resume.segment, resume.step, resume.manifest_sha256) == (2, 10, "c" * 64)
    assert not resume.certified


def test_the_cost_is_what_the_account_is_charged(
    history: History, resumed: Segments, artifacts: Artifacts, adapter: Manifest
) -> None:
    resumed.record(completed_resume(adapter))
    cost, job = stored(artifacts).cost, history.job
    assert cost.amount_micros == job.usage.paid_micros == 170_000
    assert cost.metered_seconds == job.usage.paid_seconds == 170
    assert cost.segments == job.usage.segments == 2


def test_the_event_pins_card_and_provenance_with_the_weights(
    history: History, resumed: Segments, artifacts: Artifacts, adapter: Manifest, tmp_path: Path
) -> None:
    resumed.record(completed_resume(adapter))
    manifest = artifacts.get_directory(adapter_ref(2), tmp_path / "copy")
    assert manifest.sha256 == history.last(events.Registered).manifest_sha256 != adapter.sha256
    names = {file.path for file in manifest.files}
    assert names == {WEIGHTS, ENVIRONMENT, CARD, PROVENANCE}


def test_the_hub_can_read_the_card(
    resumed: Segments, artifacts: Artifacts, adapter: Manifest
) -> None:
    resumed.record(completed_resume(adapter))
    card = ModelCard(artifacts.get(f"{adapter_ref(2)}/{CARD}").decode())
    assert card.data.to_dict() == {
        "base_model": "tiny",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "ecolink", "base_model:adapter:tiny"],
    }
    for fact in (
        PLAN.dataset_sha256,
        PLAN.base_manifest_sha256,
        "| learning_rate | `0.0002` |",
        "3.0000 nats",
        "2.0000 nats",
        "20.09 before, 7.39 after",
        "40.0% before, 55.0% after",
        "30 of 30",
        "2.5000",
        "1.5000",
        "$0.17 for 170 metered seconds",
        "1 x cpu in local",
        "torch 2.13.0",
    ):
        assert fact in card.text, fact


def test_a_version_conflict_is_retried(
    log: EventLog,
    history: History,
    resumed: Segments,
    artifacts: Artifacts,
    adapter: Manifest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commit, races = log.commit, iter([history.pause])

    def raced(*aggregates, **options):
        for lose in races:
            monkeypatch.setattr(log, "commit", commit)
            lose()
            raise VersionConflict("another writer was first")
        commit(*aggregates, **options)

    monkeypatch.setattr(log, "commit", raced)
    resumed.record(completed_resume(adapter))
    assert history.job.status is JobStatus.REGISTERED
    assert (
        artifacts.manifest(adapter_ref(2)).sha256 == history.last(events.Registered).manifest_sha256
    )
    assert stored(artifacts).job_version == history.last(events.Registered).originator_version - 1


def test_the_same_job_writes_the_same_bytes(
    log: EventLog, history: History, resumed: Segments, artifacts: Artifacts, adapter: Manifest
) -> None:
    first = document(log, artifacts, history.job, adapter_ref(2), adapter.sha256)
    assert document(log, artifacts, history.job, adapter_ref(2), adapter.sha256) == first


def test_a_final_report_that_is_repeated_writes_nothing(
    history: History, resumed: Segments, artifacts: Artifacts, adapter: Manifest
) -> None:
    resumed.record(completed_resume(adapter))
    resumed.record(completed_resume(adapter, n=10))
    assert (
        artifacts.manifest(adapter_ref(2)).sha256 == history.last(events.Registered).manifest_sha256
    )


@pytest.mark.parametrize("content", [b"not what it was", b"{}"])
def test_an_invalid_environment_counts_as_a_crash(
    log: EventLog, history: History, resumed: Segments, artifacts: Artifacts, content: bytes
) -> None:
    garbled = artifacts.add_files(adapter_ref(2), Manifest(files=()), {ENVIRONMENT: content})
    resumed.record(completed_resume(garbled))
    assert history.job.status is not JobStatus.REGISTERED
    assert history.job.next_segment == 3


def test_a_models_files_survive_the_cleanup(
    log: EventLog, history: History, resumed: Segments, artifacts: Artifacts, adapter: Manifest
) -> None:
    """The event names them, so that they survive the clean-up of the segment."""
    resumed.record(completed_resume(adapter))
    stored, lost = (
        artifacts.list(adapter_ref(2)),
        f"{job_prefix(history.job)}/checkpoints/segment-2/step-9",
    )
    artifacts.put(f"{lost}/position.json", b"{}")
    resumed.delete_unnamed(history.job, 2)
    assert artifacts.list(adapter_ref(2)) == stored
    assert artifacts.list(lost) == []
