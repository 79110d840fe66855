"""The datasets service: validation, counts and clean-up."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from domain.datasets.dataset import DatasetStatus
from infrastructure.artifacts import Artifacts
from infrastructure.backoff import FIRST_PAUSE
from infrastructure.event_handlers import parked_events
from infrastructure.measurements import progress_of
from infrastructure.profiles import dataset_names, set_dataset_name
from infrastructure.store import Connection
from services.datasets import counting as counting_module
from services.datasets.report import Code
from tests.builders.commands import FixedClock
from tests.services.datasets.running_service import (
    VALID,
    Service,
    home,
)


def test_an_upload_becomes_a_dataset_with_a_report(artifacts: Artifacts, service: Service) -> None:
    dataset_id = service.upload(VALID)
    service.catch_up()
    ready = service.dataset(dataset_id)
    assert (ready.status, ready.examples) == (DatasetStatus.READY_FOR_TRAINING, 2)
    normalised = artifacts.get(ready.ref)
    assert hashlib.sha256(normalised).hexdigest() == ready.sha256
    assert len([json.loads(line)["messages"] for line in normalised.splitlines()]) == 2
    report = service.report(dataset_id)
    assert (report.examples, report.error_count) == (2, 0)


def test_progress_is_stored(service: Service, pool: ConnectionPool[Connection]) -> None:
    dataset_id = service.upload(VALID)
    service.catch_up()
    with pool.connection() as connection:
        assert progress_of(connection, dataset_id) == {
            "lines": 2,
            "bytes": len(VALID),
            "total_bytes": len(VALID),
        }


def test_a_rejected_upload_leaves_only_its_report(artifacts: Artifacts, service: Service) -> None:
    dataset_id = service.upload(VALID + b'{"messages": []}\n')
    service.catch_up()
    assert service.dataset(dataset_id).status is DatasetStatus.REJECTED
    assert artifacts.list(home(dataset_id)) == [f"{home(dataset_id)}/report.json"]
    report = service.report(dataset_id)
    assert [(error.line, error.code) for error in report.errors] == [(3, Code.NO_MESSAGES)]


def test_a_file_beyond_the_limit_is_rejected(
    service: Service,
    log: EventLog,
    artifacts: Artifacts,
    pool: ConnectionPool[Connection],
    clock: FixedClock,
) -> None:
    dataset_id = service.upload(VALID)
    Service(log, pool, artifacts, clock, max_bytes=10).catch_up()
    assert service.dataset(dataset_id).status is DatasetStatus.REJECTED


def test_each_upload_is_validated_once(service: Service, pool: ConnectionPool[Connection]) -> None:
    uploads = [service.upload(content) for content in (VALID, b"", VALID)]
    service.catch_up()
    service.catch_up()
    assert [service.dataset(each).version for each in uploads] == [2, 2, 2]
    with pool.connection() as connection:
        assert parked_events(connection) == []


def test_new_datasets_and_new_bases_are_counted(service: Service, tmp_path: Path) -> None:
    def counted() -> list[set[str]]:
        service.catch_up()
        service.count()
        return [set(service.dataset(each).counted) for each in datasets]

    service.import_base(tmp_path / "tiny")
    datasets = [service.upload(VALID)]
    assert counted() == [{"tiny"}]
    datasets.append(service.upload(VALID))
    assert counted() == [{"tiny"}, {"tiny"}]
    service.import_base(tmp_path / "little", "little")
    assert counted() == [{"tiny", "little"}] * 2


def test_a_count_is_not_repeated_while_its_row_is_missing(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.import_base(tmp_path / "tiny")
    dataset_id = service.upload(VALID)
    service.catch_up()
    service.count()
    assert set(service.dataset(dataset_id).counted) == {"tiny"}
    again: list[object] = []
    monkeypatch.setattr(counting_module, "run", lambda *_: again.append(1))
    service.count()
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
def test_an_uncountable_pair_does_not_block_others(
    artifacts: Artifacts, service: Service, tmp_path: Path, spoil: object
) -> None:
    service.import_base(tmp_path / "a", "a-spoilt")
    spoil(artifacts.root / "models/a-spoilt")  # type: ignore[operator]
    service.import_base(tmp_path / "tiny")
    dataset_id = service.upload(VALID)
    service.catch_up()
    service.count()
    service.count()
    assert set(service.dataset(dataset_id).counted) == {"tiny"}


def test_a_failed_count_is_retried_later(
    artifacts: Artifacts, service: Service, clock: FixedClock, tmp_path: Path
) -> None:
    service.import_base(tmp_path / "tiny")
    dataset_id = service.upload(VALID)
    service.catch_up()
    store, away = artifacts.root / "models", tmp_path / "away"
    store.rename(away)
    service.count()
    away.rename(store)
    service.count()
    assert set(service.dataset(dataset_id).counted) == set(), "its time has not come"
    clock.time += FIRST_PAUSE
    service.count()
    assert set(service.dataset(dataset_id).counted) == {"tiny"}


def test_many_uncountable_pairs_do_not_block_others(
    artifacts: Artifacts, service: Service, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        service.import_base(tmp_path / name, name)
        _without_tokenizer(artifacts.root / "models" / name)  # type: ignore[operator]
    service.import_base(tmp_path / "tiny")
    dataset_id = service.upload(VALID)
    service.catch_up()
    service.count()
    assert set(service.dataset(dataset_id).counted) == {"tiny"}


def test_a_deleted_dataset_leaves_no_file_and_no_name(
    artifacts: Artifacts, service: Service, pool: ConnectionPool[Connection]
) -> None:
    dataset_id, other = service.upload(VALID), service.upload(VALID)
    with pool.connection() as connection:
        set_dataset_name(connection, dataset_id, "chats")
    service.catch_up()
    service.delete(dataset_id)
    service.catch_up()
    assert artifacts.list(home(dataset_id)) == []
    assert artifacts.list(home(other)) != []
    with pool.connection() as connection:
        assert dataset_names(connection, [dataset_id]) == {}
