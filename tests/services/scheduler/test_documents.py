"""A model's card and provenance."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
from huggingface_hub import ModelCard

from domain.core.errors import VersionConflict
from domain.core.event_log import EventLog
from domain.datasets.dataset import Contents, Dataset, HubSource, UploadOptions
from domain.datasets.filters import Filters
from domain.jobs import events
from domain.jobs.documents import CARD, PROVENANCE
from domain.jobs.job import JobStatus
from infrastructure.artifacts.store import Manifest
from infrastructure.training.environment import ENVIRONMENT
from services.scheduler.documents import document, origin_of
from services.scheduler.job_history import JobHistory
from services.scheduler.provenance import Provenance
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID, DATASET_ID, JOB_ID, PLAN
from tests.builders.history import History
from tests.builders.reports import (
    EVALUATION,
    HOME,
    TRAINED_WITH,
    WEIGHTS,
    adapter_ref,
    completed_resume,
    store_adapter,
)
from tests.services.scheduler.conftest import Scheduler

ADAPTER = adapter_ref(2)


@pytest.fixture
def adapter(scheduler: Scheduler) -> Manifest:
    """The adapter that the trainer stored."""
    return store_adapter(scheduler.artifacts)


@pytest.fixture
def resumed(history: History) -> History:
    """A job whose second segment trains."""
    history.resume_after_a_crash(certified=True)
    return history


@pytest.fixture
def registered(resumed: History, scheduler: Scheduler, adapter: Manifest) -> History:
    """A job with a model."""
    scheduler.segments.record(completed_resume(adapter))
    return resumed


def stored(scheduler: Scheduler) -> Provenance:
    return Provenance.model_validate_json(scheduler.artifacts.get(f"{ADAPTER}/{PROVENANCE}"))


def test_the_provenance_describes_the_job(
    registered: History, scheduler: Scheduler, adapter: Manifest
) -> None:
    found, job = stored(scheduler), registered.job
    assert (found.model, found.job_id, found.account_id) == (job.model_name, JOB_ID, ACCOUNT_ID)
    assert found.job_version == registered.last(events.Registered).originator_version - 1
    assert found.dataset.model_dump() == {
        "id": DATASET_ID,
        "sha256": PLAN.dataset_sha256,
        "uploaded_sha256": "a" * 64,
        "filters": None,
        "versions": (),
        "synthesis_id": None,
        "hub_commit": None,
    }
    assert (found.base.name, found.base.manifest_sha256) == ("tiny", PLAN.base_manifest_sha256)
    assert (found.hyperparameters, found.seed) == (PLAN.hyperparameters, PLAN.lora.seed)
    assert [(each.segment, each.step, each.manifest_sha256) for each in found.checkpoints] == [
        (1, 10, "c" * 64),
        (2, 30, "e" * 64),
    ]
    (resume,) = found.resumes
    assert (resume.segment, resume.step, resume.manifest_sha256) == (2, 10, "c" * 64)
    assert (resume.certified, resume.unchecked) == (True, ())
    segments = [(each.segment, each.step, each.gpu_count) for each in found.segments]
    assert segments == [(1, 0, 1), (2, 10, 1)]
    assert found.evaluation is not None
    assert found.evaluation.loss_after == EVALUATION.loss_after
    assert found.evaluation.accuracy_after == EVALUATION.accuracy_after
    assert found.environment == TRAINED_WITH
    assert found.files == adapter.files
    assert found.cost.amount_micros == job.usage.paid_micros == 170_000
    assert found.cost.metered_seconds == job.usage.paid_seconds == 170
    assert found.cost.segments == job.usage.segments == 2


def test_the_origin_of_a_dataset_has_its_filters_and_earlier_versions(log: EventLog) -> None:
    filters = Filters(near_duplicates=True)
    first, second, third = (uuid4() for _ in range(3))
    with command():
        source = HubSource(commit="c" * 40, document_sha256="d" * 64)
        one = Dataset.uploaded(first, ACCOUNT_ID, "a", "a" * 64, 9, UploadOptions(source=source))
        one.validate("an", "1" * 64, Contents(2), "report")
        options = UploadOptions(parent=first, synthesis_id=JOB_ID)
        two = Dataset.uploaded(second, ACCOUNT_ID, "b", "b" * 64, 9, options)
        two.validate("bn", "2" * 64, Contents(2), "report")
        options = UploadOptions(parent=second, filters=filters)
        three = Dataset.uploaded(third, ACCOUNT_ID, two.ref, two.sha256, 9, options)
        one.delete([])
        log.commit(one, two, three)
    origin = origin_of(log, log.load(Dataset, third))
    assert (origin.uploaded_sha256, origin.filters) == (None, filters)
    assert [tuple(each.model_dump().values()) for each in origin.versions] == [
        (second, "2" * 64, "b" * 64, JOB_ID, None),
        (first, "1" * 64, "a" * 64, None, "c" * 40),
    ]


def test_an_uncertified_resume_has_its_step(history: History) -> None:
    history.run_with_a_crash()
    (resume,) = JobHistory(history.events()).resumes
    assert (resume.segment, resume.step, resume.manifest_sha256) == (2, 10, "c" * 64)
    assert not resume.certified


def test_the_event_pins_card_and_provenance_with_the_weights(
    registered: History, scheduler: Scheduler, adapter: Manifest, tmp_path: Path
) -> None:
    scheduler.segments.record(completed_resume(adapter, n=10))  # a repetition writes nothing
    manifest = scheduler.artifacts.get_directory(ADAPTER, tmp_path / "copy")
    assert manifest.sha256 == registered.last(events.Registered).manifest_sha256 != adapter.sha256
    names = {file.path for file in manifest.files}
    assert names == {WEIGHTS, ENVIRONMENT, CARD, PROVENANCE}


@pytest.mark.usefixtures("registered")
def test_the_hub_can_read_the_card(scheduler: Scheduler) -> None:
    card = ModelCard(scheduler.artifacts.get(f"{ADAPTER}/{CARD}").decode())
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
    resumed: History, scheduler: Scheduler, adapter: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = scheduler.log.commit

    def lose(*_: object) -> None:
        monkeypatch.setattr(scheduler.log, "commit", commit)
        resumed.pause()
        raise VersionConflict("Another writer was first.")

    monkeypatch.setattr(scheduler.log, "commit", lose)
    scheduler.segments.record(completed_resume(adapter))
    assert resumed.job.status is JobStatus.REGISTERED
    event = resumed.last(events.Registered)
    assert scheduler.artifacts.manifest(ADAPTER).sha256 == event.manifest_sha256
    assert stored(scheduler).job_version == event.originator_version - 1


def test_the_same_job_writes_the_same_bytes(
    resumed: History, scheduler: Scheduler, adapter: Manifest
) -> None:
    first, second = (
        document(scheduler.log, scheduler.artifacts, resumed.job, ADAPTER, adapter.sha256)
        for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize("content", [b"not what it was", b"{}"])
def test_an_invalid_environment_counts_as_a_crash(
    resumed: History, scheduler: Scheduler, content: bytes
) -> None:
    files = {ENVIRONMENT: content}
    invalid = scheduler.artifacts.add_files(ADAPTER, Manifest(files=()), files)
    scheduler.segments.record(completed_resume(invalid))
    assert resumed.job.status is not JobStatus.REGISTERED
    assert resumed.job.next_segment == 3


def test_a_models_files_survive_the_cleanup(registered: History, scheduler: Scheduler) -> None:
    """The event names them."""
    artifacts = scheduler.artifacts
    stored, lost = artifacts.list(ADAPTER), f"{HOME}/checkpoints/segment-2/step-9/position.json"
    artifacts.put(lost, b"{}")
    scheduler.segments.clean_up(registered.job, 2)
    assert artifacts.list(ADAPTER) == stored
    assert not artifacts.exists(lost)


def test_the_card_and_the_provenance_name_a_lost_best_state(
    resumed: History, scheduler: Scheduler, adapter: Manifest
) -> None:
    best = {"step": 10, "final_loss": 1.75, "lost_best_step": 20, "lost_best_loss": 1.25}
    evaluation = EVALUATION.model_copy(update=best)
    report = completed_resume(adapter).model_copy(update={"evaluation": evaluation})
    scheduler.segments.record(report)
    found = stored(scheduler).evaluation
    assert found is not None
    assert (found.step, found.lost_best_step, found.lost_best_loss) == (10, 20, 1.25)
    card = scheduler.artifacts.get(f"{ADAPTER}/{CARD}").decode()
    assert "step 10, the best intact one" in card
    assert "step 20, with held-out loss 1.2500" in card
    assert "| Held-out loss of the final state | 1.7500 |" in card
