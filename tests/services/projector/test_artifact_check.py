"""The comparison of stored artifacts with the log."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from domain.billing.account import Account
from domain.billing.suspension import SuspensionReason
from domain.catalog.base_model import BaseModel
from domain.core.aggregate import because
from domain.core.event_log import EventLog
from domain.datasets.dataset import Dataset
from domain.jobs.documents import CARD
from domain.jobs.job import Job
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from services.projector.artifact_check import ArtifactFindings, check_artifacts
from services.projector.store_checks import DifferenceKind
from tests.builders.examples import ESTIMATE, JOB_ID, PLAN, revision
from tests.builders.platform import Platform
from tests.builders.platform_job import PlatformJob

CHECKPOINT, ADAPTER = "jobs/a/checkpoints/10", "jobs/a/adapter"


class Stored(NamedTuple):
    """A dataset, a checkpoint and an adapter, as the log names them and the store has them."""

    platform: Platform
    artifacts: Artifacts
    dataset: Dataset

    def check(self) -> ArtifactFindings:
        with connect(self.platform.settings) as store:
            return check_artifacts(store, self.platform.log, self.artifacts)


@pytest.fixture
def stored(settings: Settings, log: EventLog, tmp_path: Path) -> Stored:
    platform = Platform(settings, log)

    def directory(ref: str) -> str:
        (tmp_path / ref).mkdir(parents=True)
        (tmp_path / ref / "weights").write_text(ref)
        return platform.artifacts.put_directory(ref, tmp_path / ref).sha256

    person = platform.person(dollars=10)
    dataset_id = platform.upload(person.account_id, b"chats")
    with because(platform.cause):
        log.commit(Job.approve(JOB_ID, person.account_id, PLAN, ESTIMATE))
    job = PlatformJob(platform, person, JOB_ID)
    job.train(checkpoint=None)
    job.save(10, ref=CHECKPOINT, sha256=directory(CHECKPOINT))
    job.register(ADAPTER, directory(ADAPTER))
    return Stored(platform, platform.artifacts, log.load(Dataset, dataset_id))


def test_unchanged_artifacts_have_no_differences(stored: Stored) -> None:
    found = stored.check()
    assert found.differences == []
    assert (found.artifacts, found.files) == (3, 3)
    assert found.total_bytes == len(b"chats") + len(CHECKPOINT) + len(ADAPTER)


def test_documents_that_ecolink_added_are_no_difference(stored: Stored) -> None:
    manifest = stored.artifacts.manifest(ADAPTER)
    stored.artifacts.add_files(ADAPTER, manifest, {CARD: b"card"})
    assert stored.check().differences == []


@pytest.mark.parametrize("ref", [f"{CHECKPOINT}/weights", f"{ADAPTER}/weights", "dataset"])
@pytest.mark.parametrize("deleted", [False, True])
def test_a_changed_or_deleted_file_is_a_difference(stored: Stored, ref: str, deleted: bool) -> None:
    ref = stored.dataset.ref if ref == "dataset" else ref
    if deleted:
        stored.artifacts.delete(ref)
    else:
        stored.artifacts.put(ref, b"other")
    (difference,) = stored.check().differences
    assert difference.kind is DifferenceKind.ARTIFACT
    assert ref.removesuffix("/weights") in difference.text


def test_a_rewritten_manifest_is_a_difference(stored: Stored, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "weights").write_text("other")
    stored.artifacts.put_directory(ADAPTER, tmp_path / "other")
    (difference,) = stored.check().differences
    assert str(JOB_ID) in difference.text


def test_deleted_artifacts_are_not_missed(stored: Stored) -> None:
    with because(stored.platform.cause):
        job = stored.platform.log.load(Job, JOB_ID)
        job.delete_model()
        dataset = stored.platform.log.load(Dataset, stored.dataset.id)
        dataset.delete(())
        stored.platform.log.commit(job, dataset)
    for ref in (CHECKPOINT, ADAPTER):
        stored.artifacts.delete_directory(ref)
    stored.artifacts.delete(stored.dataset.ref)
    assert stored.check() == ArtifactFindings()


def test_all_revisions_of_a_base_model_are_compared(stored: Stored, tmp_path: Path) -> None:
    """Given a model that was imported twice. Earlier jobs keep the earlier revision."""
    refs = ["models/tiny/1", "models/tiny/2"]
    hashes: list[str] = []
    for ref in refs:
        (tmp_path / ref).mkdir(parents=True)
        (tmp_path / ref / "weights").write_text(ref)
        hashes.append(stored.artifacts.put_directory(ref, tmp_path / ref).sha256)
    first, second = (
        revision(ref=ref, manifest_sha256=sha256) for ref, sha256 in zip(refs, hashes, strict=True)
    )
    with because(stored.platform.cause):
        base = BaseModel.imported("tiny", first)
        base.revise(second)
        stored.platform.log.commit(base)
    assert stored.check().differences == []
    assert stored.check().artifacts == 5
    for ref in refs:
        stored.artifacts.put(f"{ref}/weights", b"other")
    assert len(stored.check().differences) == 2

    with because(stored.platform.cause):
        base.delete()
        base.revise(second)
        stored.platform.log.commit(base)
    (difference,) = stored.check().differences
    assert refs[1] in difference.text


def test_the_deleted_files_of_an_erased_account_are_no_difference(stored: Stored) -> None:
    account_id = stored.dataset.account_id
    for ref in stored.artifacts.list(""):
        stored.artifacts.delete(ref)
    assert len(stored.check().differences) == 3
    with because(stored.platform.cause):
        stored.platform.ecolink.suspend(account_id, SuspensionReason.REQUEST)
        account = stored.platform.log.load(Account, account_id)
        account.erase()
        stored.platform.log.commit(account)
    assert stored.check().differences == []
