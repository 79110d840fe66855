"""Validation, counts and clean-up in the datasets service."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from psycopg_pool import ConnectionPool

from domain.core.aggregate import because
from domain.datasets.columns import Role, columns_document, columns_sha256
from domain.datasets.dataset import Dataset, DatasetStatus, Uncountable, UploadOptions
from domain.datasets.filters import Filters
from infrastructure.accounts.profiles import dataset_names, set_dataset_name
from infrastructure.artifacts.store import Artifacts
from infrastructure.bus.event_handlers import parked_events
from infrastructure.datasets.wanted_counts import want_count
from infrastructure.postgres.store import Connection
from infrastructure.process.backoff import FIRST_PAUSE, MAX_PAUSE
from infrastructure.process.limited_process import Limits
from infrastructure.training.measurements import progress_of
from services.datasets import limited_work
from services.datasets.limited_work import MOST_FAILURES
from services.datasets.report import Code
from tests.builders.examples import ACCOUNT_ID
from tests.builders.platform import Platform
from tests.services.datasets.conftest import Service
from tests.services.datasets.formats import CORPUS, parquet
from tests.services.datasets.uploads import GROWING, LOOPING, VALID


def test_an_upload_becomes_a_dataset_with_a_report(
    artifacts: Artifacts, service: Service, pool: ConnectionPool[Connection]
) -> None:
    dataset_id = service.upload()
    service.catch_up()
    ready = service.dataset(dataset_id)
    assert (ready.status, ready.examples) == (DatasetStatus.READY_FOR_TRAINING, 2)
    normalized = artifacts.get(ready.ref)
    assert hashlib.sha256(normalized).hexdigest() == ready.sha256
    assert normalized.count(b"\n") == 2
    report = service.report(dataset_id)
    assert (report.examples, report.error_count) == (2, 0)
    size = len(VALID)
    with pool.connection() as connection:
        assert progress_of(connection, dataset_id) == {
            "lines": 2, "bytes": size, "total_bytes": size
        }  # fmt: skip


def test_a_rejected_upload_is_kept_with_its_report(artifacts: Artifacts, service: Service) -> None:
    dataset_id = service.upload(VALID + b'{"messages": []}\n')
    service.catch_up()
    assert service.dataset(dataset_id).status is DatasetStatus.REJECTED
    report_file, sample = sorted(service.files(dataset_id))
    assert (Path(report_file).name, Path(sample).name) == ("report.json", "sample.json")
    assert artifacts.exists(service.dataset(dataset_id).upload_ref)
    report = service.report(dataset_id)
    assert [(error.line, error.code) for error in report.errors] == [(3, Code.NO_MESSAGES)]


def test_a_parquet_file_is_validated_within_the_limits(service: Service) -> None:
    dataset_id = service.upload(parquet(CORPUS))
    service.catch_up()
    assert service.dataset(dataset_id).status is DatasetStatus.READY_FOR_TRAINING
    report = service.report(dataset_id)
    assert (report.format, report.examples) == ("Parquet", len(CORPUS))


def test_a_file_beyond_the_limit_is_rejected(service: Service) -> None:
    dataset_id = service.upload()
    service.limit(max_bytes=10)
    service.catch_up()
    assert service.dataset(dataset_id).status is DatasetStatus.REJECTED


@pytest.mark.full
def test_each_upload_is_validated_once(service: Service, pool: ConnectionPool[Connection]) -> None:
    uploads = [service.upload(content) for content in (VALID, b"", VALID)]
    service.catch_up()
    service.catch_up()
    assert [service.dataset(each).version for each in uploads] == [2, 2, 2]
    with pool.connection() as connection:
        assert parked_events(connection) == []


def test_filters_wait_for_an_extension_that_applies_them(service: Service) -> None:
    parent = service.dataset(service.upload())
    service.catch_up()
    filtered_id = uuid4()
    options = UploadOptions(parent=parent.id, filters=Filters(near_duplicates=True))
    with because(service.platform.cause):
        filtered = Dataset.uploaded(filtered_id, ACCOUNT_ID, parent.ref, "0" * 64, 1, options)
        service.platform.log.commit(filtered)
    service.catch_up()
    assert service.dataset(filtered_id).status is DatasetStatus.VALIDATING


@pytest.mark.full
def test_a_small_upload_does_not_wait_for_another_account(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, order = limited_work.run, list[str]()

    def note(module: str, request: dict[str, str], *others: object) -> object:
        order.append(request["upload"])
        return run(module, request, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(limited_work, "run", note)
    for _ in range(3):
        service.upload()
    small = service.upload(VALID, uuid4())
    service.catch_up()
    assert [str(small) in each for each in order].index(True) <= 1
    assert len(order) == 4


def test_a_failing_validation_is_retried_then_rejected(service: Service) -> None:
    dataset_id = service.upload()
    service.limit(Limits(cpu_seconds=60, wall_seconds=0, memory_mib=1024))
    for tried in range(1, MOST_FAILURES + 1):
        for _ in range(3):  # nothing is tried before its time
            service.validate()
        is_over = tried == MOST_FAILURES
        assert service.dataset(dataset_id).status is (
            DatasetStatus.REJECTED if is_over else DatasetStatus.VALIDATING
        )
        service.clock.time += MAX_PAUSE


def test_a_dataset_deleted_while_it_is_validated_leaves_no_file(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = limited_work.run

    def delete_meanwhile(*arguments: object) -> object:
        result = run(*arguments)  # type: ignore[arg-type]
        service.delete(dataset_id)
        service.consumer.catch_up()
        return result

    monkeypatch.setattr(limited_work, "run", delete_meanwhile)
    dataset_id = service.upload()
    service.catch_up()
    assert service.dataset(dataset_id).status is DatasetStatus.DELETED
    assert service.files(dataset_id) == []


def test_a_deleted_dataset_leaves_no_file_and_no_name(
    service: Service, pool: ConnectionPool[Connection]
) -> None:
    dataset_id, other = service.upload(), service.upload()
    with pool.connection() as connection:
        set_dataset_name(connection, dataset_id, "chats")
        want_count(connection, dataset_id, "tiny")
        want_count(connection, other, "tiny")
    service.catch_up()
    upload_ref = service.dataset(dataset_id).upload_ref
    service.delete(dataset_id)
    service.catch_up()
    assert service.files(dataset_id) == []
    assert not service.platform.artifacts.exists(upload_ref)
    assert service.files(other) != []
    with pool.connection() as connection:
        assert dataset_names(connection, [dataset_id]) == {}
        (kept,) = connection.execute("SELECT dataset_id FROM wanted_counts").fetchall()
    assert kept["dataset_id"] == other


def test_chosen_columns_are_used_and_deleted_with_their_dataset(
    artifacts: Artifacts, service: Service
) -> None:
    columns = {Role.USER: "q", Role.ASSISTANT: "a"}
    content, document = b"id,q,a,n\n1,Hi?,Yes.,x\n", columns_document(columns)
    dataset_id, ref = uuid4(), "uploads/faq"
    artifacts.put(ref, content)
    options = UploadOptions(columns_sha256=columns_sha256(columns))
    with because(replace(service.platform.cause, now=datetime.now(UTC))):
        sha256 = hashlib.sha256(content).hexdigest()
        uploaded = Dataset.uploaded(dataset_id, ACCOUNT_ID, ref, sha256, len(content), options)
        assert uploaded.columns_ref is not None
        artifacts.put(uploaded.columns_ref, document)
        service.platform.log.commit(uploaded)
    service.catch_up()
    assert service.dataset(dataset_id).status is DatasetStatus.READY_FOR_TRAINING
    report = service.report(dataset_id)
    assert (report.columns, report.columns_chosen) == ({"user": "q", "assistant": "a"}, True)
    service.delete(dataset_id)
    service.catch_up()
    assert artifacts.list("uploads") == []


@pytest.mark.full
def test_new_datasets_and_new_bases_are_counted_once(
    service: Service, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counted() -> list[set[str]]:
        service.catch_up()
        service.count()
        return [service.counted(each) for each in datasets]

    platform.store_base("tiny")
    datasets = [service.upload()]
    assert counted() == [{"tiny"}]
    datasets.append(service.upload())
    assert counted() == [{"tiny"}, {"tiny"}]
    platform.store_base("little")
    assert counted() == [{"tiny", "little"}] * 2
    again: list[object] = []
    monkeypatch.setattr(limited_work, "run", lambda *_: again.append(1))
    service.count()  # the read model still lists the last pairs
    assert again == []


def _without_tokenizer(directory: Path) -> None:
    (directory / "tokenizer.json").unlink()


def _with_a_garbled_tokenizer(directory: Path) -> None:
    (directory / "tokenizer.json").write_text('{"model"')


def _with_a_template_that_refuses(directory: Path) -> None:
    (directory / "chat_template.jinja").write_text("{{ raise_exception('never') }}")


@pytest.mark.parametrize(
    "spoil", [_without_tokenizer, _with_a_garbled_tokenizer, _with_a_template_that_refuses]
)
def test_uncountable_pairs_do_not_block_others(
    artifacts: Artifacts, service: Service, platform: Platform, spoil: object
) -> None:
    for name in ("a", "b", "c"):
        platform.store_base(name)
        spoil(artifacts.root / "models" / name)  # type: ignore[operator]
    platform.store_base()
    dataset_id = service.upload()
    service.catch_up()
    service.count()
    assert service.counted(dataset_id) == {"tiny"}


@pytest.mark.full
@pytest.mark.parametrize(
    ("template", "reason"), [(LOOPING, Uncountable.TIME), (GROWING, Uncountable.MEMORY)]
)
def test_an_endless_template_does_not_block_others(
    service: Service, platform: Platform, template: str, reason: Uncountable
) -> None:
    endless = platform.store_base("a-endless", template)
    platform.store_base()
    uploads = service.upload(), service.upload(VALID, uuid4())
    service.catch_up()
    service.limit(Limits(cpu_seconds=2, wall_seconds=600, memory_mib=512))
    service.count()
    for each in uploads:
        assert service.counted(each) == {"tiny"}
        assert service.dataset(each).uncountable[endless.name].reason is reason


def test_a_failed_count_is_retried_later(
    artifacts: Artifacts, service: Service, platform: Platform, tmp_path: Path
) -> None:
    platform.store_base()
    dataset_id = service.upload()
    service.catch_up()
    store, away = artifacts.root / "models", tmp_path / "away"  # type: ignore[operator]
    store.rename(away)
    service.count()
    away.rename(store)
    service.count()
    assert service.counted(dataset_id) == set(), "its time has not come"
    service.clock.time += FIRST_PAUSE
    service.count()
    assert service.counted(dataset_id) == {"tiny"}
