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
from infrastructure.measurements import progress_of
from infrastructure.profiles import dataset_names, set_dataset_name
from infrastructure.reaction import parked_reactions
from infrastructure.store import Connection
from services.datasets import counting as counting_module
from services.datasets.counting import Counting
from services.datasets.report import Code, Report
from tests.command_context import FixedClock, command
from tests.services.datasets.running_service import (
    VALID,
    Service,
    count,
    dataset,
    home,
    import_base,
    project,
    upload,
)


def test_an_upload_becomes_a_dataset_with_a_report(
    log: EventLog, artifacts: Artifacts, service: Service
) -> None:
    dataset_id = upload(log, artifacts, VALID)
    service.catch_up()
    ready = dataset(log, dataset_id)
    assert (ready.status, ready.examples) == (DatasetStatus.READY_FOR_TRAINING, 2)
    normalised = artifacts.get(ready.ref)
    assert hashlib.sha256(normalised).hexdigest() == ready.sha256
    assert len([json.loads(line)["messages"] for line in normalised.splitlines()]) == 2
    report = Report.model_validate_json(artifacts.get(f"{home(dataset_id)}/report.json"))
    assert (report.examples, report.error_count) == (2, 0)


def test_progress_is_stored(
    log: EventLog,
    artifacts: Artifacts,
    service: Service,
    pool: ConnectionPool[Connection],
) -> None:
    dataset_id = upload(log, artifacts, VALID)
    service.catch_up()
    with pool.connection() as connection:
        assert progress_of(connection, dataset_id) == {
            "lines": 2,
            "bytes": len(VALID),
            "total_bytes": len(VALID),
        }


def test_a_rejected_upload_leaves_only_its_report(
    log: EventLog, artifacts: Artifacts, service: Service
) -> None:
    dataset_id = upload(log, artifacts, VALID + b'{"messages": []}\n')
    service.catch_up()
    assert dataset(log, dataset_id).status is DatasetStatus.REJECTED
    assert artifacts.list(home(dataset_id)) == [f"{home(dataset_id)}/report.json"]
    report = Report.model_validate_json(artifacts.get(f"{home(dataset_id)}/report.json"))
    assert [(error.line, error.code) for error in report.errors] == [(3, Code.NO_MESSAGES)]


def test_a_file_beyond_the_limit_is_rejected(
    log: EventLog, artifacts: Artifacts, pool: ConnectionPool[Connection], clock: FixedClock
) -> None:
    dataset_id = upload(log, artifacts, VALID)
    Service(log, pool, artifacts, clock, max_bytes=10).catch_up()
    assert dataset(log, dataset_id).status is DatasetStatus.REJECTED


def test_each_upload_is_validated_once(
    log: EventLog,
    artifacts: Artifacts,
    service: Service,
    pool: ConnectionPool[Connection],
) -> None:
    uploads = [upload(log, artifacts, content) for content in (VALID, b"", VALID)]
    service.catch_up()
    service.catch_up()
    assert [dataset(log, each).version for each in uploads] == [2, 2, 2]
    with pool.connection() as connection:
        assert parked_reactions(connection) == []


def test_new_datasets_and_new_bases_are_counted(
    log: EventLog,
    artifacts: Artifacts,
    service: Service,
    counting: Counting,
    pool: ConnectionPool[Connection],
    tmp_path: Path,
) -> None:
    def counted() -> list[set[str]]:
        service.catch_up()
        project(log, pool)
        count(counting)
        return [set(dataset(log, each).counted) for each in datasets]

    import_base(log, artifacts, tmp_path / "tiny")
    datasets = [upload(log, artifacts, VALID)]
    assert counted() == [{"tiny"}]
    datasets.append(upload(log, artifacts, VALID))
    assert counted() == [{"tiny"}, {"tiny"}]
    import_base(log, artifacts, tmp_path / "little", "little")
    assert counted() == [{"tiny", "little"}] * 2


def test_a_count_is_not_repeated_while_its_row_is_missing(
    log: EventLog,
    artifacts: Artifacts,
    service: Service,
    counting: Counting,
    pool: ConnectionPool[Connection],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import_base(log, artifacts, tmp_path / "tiny")
    dataset_id = upload(log, artifacts, VALID)
    service.catch_up()
    project(log, pool)
    count(counting)
    assert set(dataset(log, dataset_id).counted) == {"tiny"}
    again: list[object] = []
    monkeypatch.setattr(counting_module, "run", lambda *_: again.append(1))
    count(counting)
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
    log: EventLog,
    artifacts: Artifacts,
    service: Service,
    counting: Counting,
    pool: ConnectionPool[Connection],
    tmp_path: Path,
    spoil: object,
) -> None:
    import_base(log, artifacts, tmp_path / "a", "a-spoilt")
    spoil(artifacts.root / "models/a-spoilt")  # type: ignore[operator]
    import_base(log, artifacts, tmp_path / "tiny")
    dataset_id = upload(log, artifacts, VALID)
    service.catch_up()
    project(log, pool)
    count(counting)
    count(counting)
    assert set(dataset(log, dataset_id).counted) == {"tiny"}


def test_a_failed_count_is_retried_later(
    log: EventLog,
    artifacts: Artifacts,
    service: Service,
    counting: Counting,
    clock: FixedClock,
    pool: ConnectionPool[Connection],
    tmp_path: Path,
) -> None:
    import_base(log, artifacts, tmp_path / "tiny")
    dataset_id = upload(log, artifacts, VALID)
    service.catch_up()
    project(log, pool)
    store, away = artifacts.root / "models", tmp_path / "away"
    store.rename(away)
    count(counting)
    away.rename(store)
    count(counting)
    assert set(dataset(log, dataset_id).counted) == set(), "its time has not come"
    clock.time += FIRST_PAUSE
    count(counting)
    assert set(dataset(log, dataset_id).counted) == {"tiny"}


def test_many_uncountable_pairs_do_not_block_others(
    log: EventLog,
    artifacts: Artifacts,
    service: Service,
    counting: Counting,
    pool: ConnectionPool[Connection],
    tmp_path: Path,
) -> None:
    for name in ("a", "b", "c"):
        import_base(log, artifacts, tmp_path / name, name)
        _without_tokenizer(artifacts.root / "models" / name)  # type: ignore[operator]
    import_base(log, artifacts, tmp_path / "tiny")
    dataset_id = upload(log, artifacts, VALID)
    service.catch_up()
    project(log, pool)
    count(counting)
    assert set(dataset(log, dataset_id).counted) == {"tiny"}


def test_a_deleted_dataset_leaves_no_file_and_no_name(
    log: EventLog,
    artifacts: Artifacts,
    service: Service,
    pool: ConnectionPool[Connection],
) -> None:
    dataset_id, other = upload(log, artifacts, VALID), upload(log, artifacts, VALID)
    with pool.connection() as connection:
        set_dataset_name(connection, dataset_id, "chats")
    service.catch_up()
    with command("delete"):
        deleted = dataset(log, dataset_id)
        deleted.delete(used_by=[])
        log.commit(deleted)
    service.catch_up()
    assert artifacts.list(home(dataset_id)) == []
    assert artifacts.list(home(other)) != []
    with pool.connection() as connection:
        assert dataset_names(connection, [dataset_id]) == {}
