"""Exports as a service: files, provenance, failures, crashes, deletion and retention."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from shutil import copytree
from typing import Any, NoReturn

import psycopg
import pytest
import torch
from obstore.exceptions import GenericError, PermissionDeniedError, UnauthenticatedError
from peft import PeftModel
from prometheus_client import REGISTRY
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from domain.core.aggregate import because
from domain.jobs.events import ModelDeleted
from extensions.exports import exporting
from extensions.exports.app import measure_pending
from extensions.exports.documents import Origin
from extensions.exports.domain.export import ExportFormat, ExportStatus
from extensions.exports.domain.failures import export_advice
from extensions.exports.tables import export_progress
from extensions.exports.verification import completed, verify_files
from extensions.exports.worker import write as worker
from extensions.exports.worker.merged_weights import CannotMerge, MergedWeights
from infrastructure.artifacts.disk_cache import MODELS
from infrastructure.artifacts.store import Manifest
from infrastructure.process import full_disk
from infrastructure.process.limited_process import ProcessFailed
from services.scheduler.verification import DirectoryCopy, StoredCopy
from tests.extensions.exports.conftest import KEPT, MODEL, PRIVATE, Service, make_adapter

pytestmark = pytest.mark.usefixtures("in_this_process")


def header(tensors: Mapping[str, Any]) -> bytes:
    """Return a safetensors file of a header without data."""
    content = json.dumps(tensors).encode()
    return len(content).to_bytes(8, "little") + content


TEXT = "<|im_start|>user\nWhat is 2 and 3?<|im_end|>\n<|im_start|>assistant\n"


def test_merged_weights_answer_as_the_model_and_name_their_origin(
    service: Service, tiny_base: Path, tmp_path: Path
) -> None:
    export = service.request()
    service.run()
    found = service.find(export)
    assert (found.status, found.expires_at) == (
        ExportStatus.READY,
        service.clock.now() + KEPT,
    )
    folder = service.download(export, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(TEXT, return_tensors="pt").input_ids
    merged = AutoModelForCausalLM.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(tiny_base)
    expected = PeftModel.from_pretrained(base, str(tmp_path / "trained")).merge_and_unload()
    assert torch.equal(merged(tokens).logits, expected(tokens).logits)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(tiny_base).chat_template
    origin = Origin.model_validate_json((folder / "export.json").read_text())
    assert (origin.model, origin.source) == (MODEL, service.source)
    assert {"torch", "peft", "transformers"} <= origin.libraries.keys()
    for file in origin.files:
        assert hashlib.sha256((folder / file.path).read_bytes()).hexdigest() == file.sha256
    card = (folder / "README.md").read_text()
    assert "library_name: transformers" in card
    assert "## Result\n\nGood.\n\n## Hyperparameters\n\n| epochs | 3 |\n\n## Export\n" in card
    assert PRIVATE not in card


def test_the_licence_of_the_base_model_is_passed_on(service: Service, tmp_path: Path) -> None:
    service.artifacts.put(f"{service.base_ref}/LICENSE.txt", b"Apache 2.0")
    export = service.request()
    service.run()
    folder = service.download(export, tmp_path / "out")
    assert (folder / "LICENSE.txt").read_text() == "Apache 2.0"


def test_the_same_request_gives_the_same_export_and_the_same_bytes(service: Service) -> None:
    export = service.request()
    service.run()
    first = service.find(export)
    assert service.request().version == first.version
    service.delete(export)
    service.run()
    assert service.artifacts.list(first.home) == []
    service.request()
    service.run()
    second = service.find(export)
    assert first.files is not None
    assert second.files is not None
    assert second.files.ref != first.files.ref
    assert second.files.manifest_sha256 == first.files.manifest_sha256


def test_a_killed_exporter_starts_again(service: Service, tmp_path: Path) -> None:
    export = service.request()
    left = tmp_path / "scratch" / str(export.id) / "out"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    service.artifacts.put(f"{export.ref}/model.safetensors", b"half")
    service.start()
    assert not left.exists()
    service.run()
    service.download(export, tmp_path / "out")
    assert not left.exists()


def test_progress_is_stored_while_it_runs(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = service.request()
    seen: list[Any] = []

    def run(_module: str, _request: Any, _limits: Any, on_progress: Any) -> dict[str, Any]:
        on_progress({"bytes": 5})
        with service.pool.connection() as connection:
            seen.append(export_progress(connection, [export.id])[export.id][0])
        return {"code": "cannot_convert", "message": "It has no name."}

    monkeypatch.setattr(exporting, "run", run)
    service.run()
    assert seen == [5]
    assert service.find(export).status is ExportStatus.FAILED
    with service.pool.connection() as connection:
        assert export_progress(connection, [export.id]) == {}


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        ("base manifest", "base_damaged"),
        ("base file", "base_damaged"),
        ("adapter file", "adapter_damaged"),
        ("adapter gone", "adapter_missing"),
    ],
)
def test_damaged_weights_fail_the_export(service: Service, damage: str, code: str) -> None:
    artifacts = service.artifacts
    source: dict[str, Any] = {}
    match damage:
        case "base manifest":
            source["base_manifest_sha256"] = "0" * 64
        case "base file":
            path = f"{service.base_ref}/model.safetensors"
            content = bytearray(artifacts.get(path))
            content[-1] ^= 1
            artifacts.put(path, bytes(content))
        case "adapter file":
            artifacts.put(f"{service.adapter_ref}/adapter_model.safetensors", b"other")
        case _:
            source["adapter_ref"] = "jobs/a/b/none"
    export = service.request(ExportFormat.SAFETENSORS, **source)
    service.run()
    service.platform.project()
    assert service.find(export).status is ExportStatus.FAILED
    assert service.failure(export) == code
    assert service.artifacts.list(export.home) == []


@pytest.fixture
def adapter(trained: Path, tmp_path: Path) -> Path:
    """A copy of an adapter of the tiny model."""
    return copytree(trained, tmp_path / "adapter")


@pytest.fixture(scope="module")
def trained(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tiny_base, tmp_path_factory.mktemp("trained"))


HOSTILE_CONFIGS: dict[str, Any] = {
    "no object": [],
    "unknown kind": {"peft_type": "../../x"},
    "other kind": {"peft_type": "PREFIX_TUNING", "task_type": "CAUSAL_LM"},
    "huge rank": {"peft_type": "LORA", "r": 10**15, "target_modules": ["q_proj"]},
    "no rank": {"peft_type": "LORA", "r": 0, "target_modules": ["q_proj"]},
    "pattern": {"peft_type": "LORA", "r": 8, "rank_pattern": {"(": 1}},
}


@pytest.mark.parametrize("config", HOSTILE_CONFIGS.values(), ids=HOSTILE_CONFIGS)
def test_a_hostile_configuration_is_refused(adapter: Path, tiny_base: Path, config: Any) -> None:
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(CannotMerge):
        merge(tiny_base, adapter)


HOSTILE_WEIGHTS = {
    "empty": b"",
    "huge header": (2**63).to_bytes(8, "little") + b"{}",
    "no JSON": (2).to_bytes(8, "little") + b"[[",
    "outside": header({"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 2**40]}}),
    "overflow": header({"x": {"dtype": "F32", "shape": [2**62, 8], "data_offsets": [0, 0]}}),
    "name": header({"../../x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}),
}


@pytest.mark.parametrize("content", HOSTILE_WEIGHTS.values(), ids=HOSTILE_WEIGHTS)
def test_hostile_weights_are_refused(adapter: Path, tiny_base: Path, content: bytes) -> None:
    (adapter / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(CannotMerge):
        merge(tiny_base, adapter)


def merge(base: Path, adapter: Path) -> None:
    weights = MergedWeights(base, adapter)
    for shape in weights.shapes():
        weights.tensor(shape.name)


@pytest.mark.parametrize("path", ["../../x", "/x", "a/../../../x", "a\\x", ""])
def test_a_hostile_manifest_of_an_adapter_writes_no_file(service: Service, path: str) -> None:
    known = service.artifacts.manifest(service.adapter_ref)
    file = known.files[0].model_copy(update={"path": path})
    manifest = Manifest.model_construct(files=(*known.files, file))
    service.artifacts.put(f"{service.adapter_ref}/manifest.json", manifest.content)
    kept = service.folder / "scratch" / "x"
    kept.parent.mkdir(exist_ok=True)
    kept.write_bytes(b"kept")
    export = service.request(adapter_manifest_sha256=manifest.sha256)
    service.run()
    service.platform.project()
    assert service.failure(export) == "adapter_damaged"
    assert kept.read_bytes() == b"kept"


def test_a_damaged_base_in_a_remote_store_fails_the_export(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.artifacts, "root", None)
    service.artifacts.put(f"{service.base_ref}/model.safetensors", b"other")
    export = service.request()
    service.run()
    assert service.failure(export) == "base_damaged"


def damaged_copy(service: Service, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the weights of a copy of the base model in the cache, with a changed byte."""
    monkeypatch.setattr(service.artifacts, "root", None)
    cache = service.folder / "cache" / MODELS
    copy = service.artifacts.local_directory(service.base_ref, cache)
    service.artifacts.release_directory(copy)
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    return weights


def test_a_damaged_copy_of_the_base_is_fetched_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = damaged_copy(service, monkeypatch)
    export = service.request()
    service.run()
    assert service.find(export).status is ExportStatus.READY
    assert weights.read_bytes() == service.artifacts.get(f"{service.base_ref}/model.safetensors")


def test_a_damaged_copy_of_a_damaged_base_fails_the_export(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged_copy(service, monkeypatch)
    service.artifacts.put(f"{service.base_ref}/model.safetensors", b"other")
    export = service.request()
    service.run()
    assert service.failure(export) == "base_damaged"


def test_a_disk_that_damages_each_copy_fails_the_export_after_all_attempts(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.artifacts, "root", None)
    monkeypatch.setattr(worker, "_damaged", lambda *_: "model.safetensors")
    export = service.request()
    for number in range(exporting.MOST_FAILURES):
        assert service.find(export).status is ExportStatus.PENDING, number
        service.clock.time += timedelta(minutes=10)
        service.run()
    assert service.failure(export) == "copy_damaged"


def test_a_full_disk_fails_the_export_and_leaves_no_files(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def store(prefix: str, *_: Any) -> NoReturn:
        service.artifacts.put(f"{prefix}/model.safetensors", b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(service.artifacts, "take_directory", store)
    export = service.request()
    service.run()
    assert service.failure(export) == "no_space"
    assert service.artifacts.list(export.home) == []


def test_a_full_disk_of_the_process_fails_the_export(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: Any) -> NoReturn:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(worker, "_write", write)
    export = service.request()
    service.run()
    assert service.failure(export) == "no_space"


@pytest.mark.full
@pytest.mark.parametrize(
    ("store", "code"), [("local", None), ("remote", "no_space"), ("cached", None)]
)
def test_a_remote_base_needs_space_for_two_copies(
    service: Service, monkeypatch: pytest.MonkeyPatch, store: str, code: str | None
) -> None:
    size = service.artifacts.manifest(service.base_ref).total_bytes
    if store != "local":
        monkeypatch.setattr(service.artifacts, "root", None)
    if store == "cached":
        copies = service.folder / "cache" / MODELS
        service.artifacts.release_directory(
            service.artifacts.local_directory(service.base_ref, copies)
        )
    usage = shutil.disk_usage(service.folder)._replace(free=round(1.8 * size))
    monkeypatch.setattr(full_disk.shutil, "disk_usage", lambda _: usage)
    export = service.request()
    service.run()
    assert service.failure(export) == code


def test_too_little_disk_space_fails_the_export(service: Service) -> None:
    service.start(kept_free_bytes=10**18)
    export = service.request()
    service.run()
    assert service.find(export).status is ExportStatus.FAILED
    service.start()
    service.request()
    service.run()
    assert service.find(export).status is ExportStatus.READY


@pytest.mark.parametrize("error", [ProcessFailed("It ended."), KeyError("a")], ids=str)
def test_a_failed_attempt_is_repeated(
    service: Service, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> NoReturn:
        raise error

    monkeypatch.setattr(exporting, "run", fail)
    export = service.request()
    for number in range(exporting.MOST_FAILURES):
        assert service.find(export).status is ExportStatus.PENDING, number
        service.clock.time += timedelta(minutes=10)
        service.run()
    assert service.find(export).status is ExportStatus.FAILED


@pytest.mark.full
@pytest.mark.parametrize(
    "error", [GenericError("S3 is down."), psycopg.OperationalError("no server")], ids=str
)
def test_an_outage_fails_no_export(
    service: Service, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> NoReturn:
        raise error

    export = service.request()
    with monkeypatch.context() as patch:
        patch.setattr(service.artifacts, "local_directory", fail)
        for _ in range(exporting.MOST_FAILURES + 1):
            service.run()
            assert service.find(export).status is ExportStatus.PENDING
            service.clock.time += timedelta(minutes=10)
    service.run()
    assert service.find(export).status is ExportStatus.READY


@pytest.mark.full
@pytest.mark.parametrize(
    "error", [PermissionDeniedError("AccessDenied"), UnauthenticatedError("no keys")], ids=str
)
def test_a_store_that_denies_access_fails_the_export_after_all_attempts(
    service: Service, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def deny(*_: Any) -> NoReturn:
        raise error

    export = service.request()
    with monkeypatch.context() as patch:
        patch.setattr(service.artifacts, "take_directory", deny)
        patch.setattr(service.artifacts, "delete_directory", deny)
        for number in range(exporting.MOST_FAILURES):
            assert service.find(export).status is ExportStatus.PENDING, number
            service.clock.time += timedelta(minutes=10)
            service.run()
    assert service.failure(export) == "store_denied"
    assert "rights" in export_advice("store_denied")
    service.request()
    service.run()
    assert service.find(export).status is ExportStatus.READY


def pending_seconds(service: Service) -> float | None:
    measure_pending(service.pool, service.clock)
    return REGISTRY.get_sample_value("ecolink_pending_seconds", {"work": "exports"})


def test_the_wait_of_an_account_is_measured_since_its_last_export(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> NoReturn:
        raise GenericError("S3 is down.")

    start = service.clock.time = service.platform.cause.now
    service.platform.project()
    assert pending_seconds(service) == 0
    first = service.request()
    with monkeypatch.context() as patch:
        patch.setattr(service.artifacts, "local_directory", fail)
        service.run()
    service.clock.time = start + timedelta(hours=7)
    assert pending_seconds(service) == 7 * 3600
    service.run()
    assert service.find(first).status is ExportStatus.READY
    assert pending_seconds(service) == 0
    service.request(ExportFormat.GGUF_F16)
    service.platform.project()
    service.clock.time += timedelta(hours=1)
    assert pending_seconds(service) == 3600


def test_expired_exports_are_deleted(service: Service) -> None:
    export = service.request()
    service.run()
    service.exports.expire()
    assert service.find(export).status is ExportStatus.READY
    service.clock.time += KEPT
    service.exports.expire()
    service.consumer.catch_up()
    assert service.find(export).status is ExportStatus.EXPIRED
    assert service.artifacts.list(export.home) == []


def test_an_export_that_is_deleted_while_it_runs_leaves_no_files(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = service.request()
    run = exporting.run

    def deleting(*arguments: Any) -> dict[str, Any]:
        answer = run(*arguments)
        service.delete(export)
        return answer

    monkeypatch.setattr(exporting, "run", deleting)
    service.run()
    assert service.find(export).status is ExportStatus.DELETED
    assert service.artifacts.list(export.home) == []


def test_the_exports_of_a_deleted_model_are_deleted(service: Service) -> None:
    from extensions.exports.handlers import Cleaning
    from tests.builders.stored_examples import EXAMPLES

    export = service.request()
    service.run()
    event = next(each.event for each in EXAMPLES if isinstance(each.event, ModelDeleted))
    deleted = event.model_copy(update={"originator_id": export.job_id})
    with because(service.platform.cause):
        changed = Cleaning(service.platform.log, service.artifacts).on_model_deleted(deleted)
        service.platform.log.commit(*changed)
    service.consumer.catch_up()
    assert service.find(export).status is ExportStatus.DELETED
    assert service.artifacts.list(export.home) == []


def test_the_origin_has_no_times(service: Service, tmp_path: Path) -> None:
    export = service.request()
    service.run()
    origin = json.loads((service.download(export, tmp_path / "out") / "export.json").read_text())
    assert set(origin) == {
        *("schema_version", "model", "job_id", "format", "source", "libraries", "files")
    }


def test_an_export_is_verified_against_the_log(service: Service, tmp_path: Path) -> None:
    export = service.request()
    service.run()
    folder = service.download(export, tmp_path / "out")
    log, artifacts = service.platform.log, service.artifacts
    event = completed(log, export.job_id, export.format)
    assert event is not None
    stored = StoredCopy(artifacts, event.files.ref)
    for copy in (stored, DirectoryCopy(folder)):
        checks = verify_files(log, artifacts, event, copy)
        assert len(checks) > 12
        assert all(check.ok for check in checks)
    (folder / "model.safetensors").write_bytes(b"other")
    (folder / "more.txt").write_text("more")
    checks = verify_files(log, artifacts, event, DirectoryCopy(folder))
    assert [check.name for check in checks if not check.ok] == [
        "file model.safetensors",
        "file more.txt",
    ]
