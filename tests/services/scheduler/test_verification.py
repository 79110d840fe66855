"""Verification of intact and tampered models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from domain.core.event_log import EventLog
from domain.core.identity import base_model_id
from domain.datasets.dataset import Dataset, HubSource, UploadOptions
from domain.jobs import events
from domain.jobs.documents import CARD, PROVENANCE
from domain.jobs.failures import FailureClass
from domain.jobs.job import SegmentEnd
from infrastructure.artifacts.store import MANIFEST, Artifacts, Manifest
from infrastructure.settings import Settings
from infrastructure.training.environment import ENVIRONMENT
from infrastructure.training.reports import SAMPLE
from services.scheduler.model_card import RESUME_FILES
from services.scheduler.verification import MISSING, Check, Copy, DirectoryCopy, StoredCopy, verify
from tests.builders.history import History
from tests.builders.reports import WEIGHTS, adapter_ref, register_model
from tests.services.scheduler.conftest import Scheduler

ADAPTER = adapter_ref(2)
PARENT = UUID(int=5)


@pytest.fixture
def model(log: EventLog, settings: Settings) -> events.Registered:
    return register_model(log, settings)


@pytest.fixture
def artifacts(settings: Settings) -> Artifacts:
    return Artifacts(settings.artifacts)


@pytest.fixture
def copy(model: events.Registered, artifacts: Artifacts, tmp_path: Path) -> Path:
    """A downloaded copy, without the manifest."""
    artifacts.get_directory(ADAPTER, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def check(log: EventLog, artifacts: Artifacts, model: events.Registered) -> Callable[..., Any]:
    """Verifies the stored model or a copy. Returns the failed checks."""

    def check(directory: Path | None = None, event: events.Registered = model) -> list[Check]:
        copy = DirectoryCopy(directory) if directory else StoredCopy(artifacts, ADAPTER)
        checks = verify(log, artifacts, History(log).job, event, copy)
        return [each for each in checks if not each.ok]

    return check


def names(checks: list[Check]) -> list[str]:
    return [each.name for each in checks]


def test_an_intact_model_passes_every_check(
    log: EventLog, artifacts: Artifacts, model: events.Registered
) -> None:
    checks = verify(log, artifacts, History(log).job, model, StoredCopy(artifacts, ADAPTER))
    assert [each for each in checks if not each.ok] == []
    assert {
        MANIFEST,
        f"file {WEIGHTS}",
        f"file {CARD}",
        f"file {PROVENANCE}",
        "dataset",
        "base",
        "hyperparameters",
        "job version",
        "checkpoints: segment 1, step 10",
        "checkpoints: segment 2, step 30",
        "resumes: segment 2, step 10",
        "cost",
        "environment",
        "dataset was validated",
        "base model was imported",
    } <= set(names(checks))


def test_an_intact_copy_needs_no_manifest(check: Any, copy: Path) -> None:
    assert check(copy) == []
    (copy / MANIFEST).write_text("{}")
    assert names(check(copy)) == [MANIFEST]


def test_a_changed_weight_is_reported(check: Any, artifacts: Artifacts, copy: Path) -> None:
    artifacts.put(f"{ADAPTER}/{WEIGHTS}", b"Weights")
    assert names(check()) == [f"file {WEIGHTS}"]
    assert check(copy) == []


@pytest.mark.parametrize(
    ("path", "content", "failed"),
    [
        (CARD, None, [f"file {CARD}"]),
        ("adapter_model.bin", b"other weights", ["file adapter_model.bin"]),
        (PROVENANCE, b"not JSON", [f"file {PROVENANCE}", "provenance"]),
        (ENVIRONMENT, None, [f"file {ENVIRONMENT}", "environment"]),
    ],
    ids=["missing", "added", "invalid provenance", "other environment"],
)
def test_a_changed_file_is_reported(
    check: Any, copy: Path, path: str, content: bytes | None, failed: list[str]
) -> None:
    if content is None:
        (copy / path).unlink()
    else:
        (copy / path).write_bytes(content)
    found = check(copy)
    assert names(found) == failed
    assert content is not None or found[0].found == MISSING


FALSE_STATEMENTS: list[tuple[tuple[Any, ...], Any, str]] = [
    (("dataset", "sha256"), "0" * 64, "dataset"),
    (("dataset", "uploaded_sha256"), "0" * 64, "dataset"),
    (("base", "manifest_sha256"), "0" * 64, "base"),
    (("base", "repository"), "some/other", "base"),
    (("hyperparameters", "lora_r"), 17, "hyperparameters"),
    (("seed",), 1, "seed"),
    (("precision",), "nf4", "precision"),
    (("checkpoints", 1, "manifest_sha256"), "0" * 64, "checkpoints: segment 2, step 30"),
    (("resumes", 0, "manifest_sha256"), None, "resumes: segment 2, step 10"),
    (("resumes", 0, "certified"), False, "resumes: segment 2, step 10"),
    (("segments", 0, "gpu_count"), 2, "segments: segment 1, step 0"),
    (("evaluation", "loss_after"), 1.0, "evaluation"),
    (("cost", "amount_micros"), 1, "cost"),
    (("job_version",), 3, "job version"),
    (("environment", "revision"), None, "environment"),
    (("files", 0, "sha256"), "0" * 64, f"files: {WEIGHTS}"),
]
"""Path in the provenance, a false value, and the name of the check that finds it."""


def test_a_false_statement_is_reported_with_its_file(check: Any, copy: Path) -> None:
    sound = (copy / PROVENANCE).read_text()
    for path, value, name in FALSE_STATEMENTS:
        content = part = json.loads(sound)
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value
        (copy / PROVENANCE).write_text(json.dumps(content))
        file, statement = check(copy)
        assert (file.name, statement.name) == (f"file {PROVENANCE}", name)
        assert str(value) in statement.found


def test_an_omitted_checkpoint_is_reported(check: Any, copy: Path) -> None:
    content = json.loads((copy / PROVENANCE).read_text())
    del content["checkpoints"][1]
    (copy / PROVENANCE).write_text(json.dumps(content))
    assert "checkpoints: segment 2, step 30" in names(check(copy))


def test_the_provenance_of_a_version_has_its_origin(
    log: EventLog, settings: Settings, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = History.prepare_dataset
    uploaded = Dataset.uploaded
    source = HubSource(commit="c" * 40, document_sha256="d" * 64)

    def as_version(id: Any, account_id: Any, *file: Any) -> Dataset:
        log.commit(
            uploaded(PARENT, account_id, "a", "a" * 64, 9, options=UploadOptions(source=source))
        )
        return uploaded(id, account_id, *file, options=UploadOptions(parent=PARENT))

    def prepare_version(history: History) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(Dataset, "uploaded", as_version)
            prepare(history)

    monkeypatch.setattr(History, "prepare_dataset", prepare_version)
    event, stored = register_model(log, settings), StoredCopy(artifacts, ADAPTER)

    def failed() -> list[str]:
        checks = verify(log, artifacts, History(log).job, event, stored)
        return [each.name for each in checks if not each.ok]

    assert failed() == []
    card = artifacts.get(f"{ADAPTER}/{CARD}").decode()
    assert f"`{PARENT}` (from commit `{'c' * 40}` on the hub)" in card
    content = json.loads(artifacts.get(f"{ADAPTER}/{PROVENANCE}"))
    (version,) = content["dataset"]["versions"]
    assert version["hub_commit"] == "c" * 40
    version["hub_commit"] = "e" * 40
    artifacts.put(f"{ADAPTER}/{PROVENANCE}", json.dumps(content).encode())
    assert failed() == [f"file {PROVENANCE}", "dataset"]


def test_a_manifest_of_another_event_stops_verification(
    check: Any, model: events.Registered
) -> None:
    other = model.model_copy(update={"manifest_sha256": "0" * 64})
    (found,) = check(event=other)
    assert (found.name, found.expected) == (MANIFEST, "0" * 64)


def test_sources_missing_from_the_log_are_reported(
    check: Any, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, get = log.find, log.events.get

    def without_dataset(kind: Any, id: Any) -> Any:
        return None if kind is Dataset else find(kind, id)

    def without_base(originator_id: Any, **options: Any) -> Any:
        return [] if originator_id == base_model_id("tiny") else get(originator_id, **options)

    monkeypatch.setattr(log, "find", without_dataset)
    monkeypatch.setattr(log.events, "get", without_base)
    assert names(check()) == ["dataset", "dataset was validated", "base model was imported"]


def test_a_promoted_checkpoint_gets_a_card_and_passes(
    history: History, scheduler: Scheduler, tmp_path: Path
) -> None:
    ref, artifacts = "checkpoints/1/10", scheduler.artifacts
    files = {WEIGHTS: b"weights", **dict.fromkeys(RESUME_FILES, b"{}")}
    manifest = artifacts.add_files(ref, Manifest(files=()), files)
    history.import_base()
    history.prepare_dataset()
    history.run_until("training")
    history.save_checkpoint(1, 10, 40, manifest_sha256=manifest.sha256)
    history.end_segment(1, SegmentEnd.CRASHED, 60, failure=FailureClass.OUT_OF_MEMORY)
    history.promote()
    event = history.last(events.AdapterPromoted)
    for _ in range(2):
        scheduler.handle(event)
    card = artifacts.get(f"{ref}/{CARD}").decode()
    assert "not evaluated" in card
    assert "10 of 30" in card
    assert f"`{SAMPLE}` holds a prompt of the dataset" in card

    def differing(copy: Copy | None = None) -> list[Check]:
        found = copy or StoredCopy(artifacts, ref)
        checks = verify(history.log, artifacts, history.job, event, found)
        return [each for each in checks if not each.ok]

    assert differing() == []
    artifacts.get_directory(ref, tmp_path / "copy")
    for path in (CARD, PROVENANCE):
        (tmp_path / "copy" / path).write_bytes(artifacts.get(f"{ref}/{path}"))
    for path in RESUME_FILES:
        (tmp_path / "copy" / path).unlink()
    assert differing(DirectoryCopy(tmp_path / "copy")) == []
    artifacts.put(f"{ref}/{CARD}", card.replace("10 of 30", "30 of 30").encode())
    assert names(differing()) == [f"file {CARD}"]
    artifacts.put(f"{ref}/{WEIGHTS}", b"Weights")
    assert names(differing()) == [f"file {WEIGHTS}", f"file {CARD}"]
