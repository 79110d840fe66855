"""Analysis, filters and comparisons in the process of datasets."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import NoReturn
from uuid import UUID, uuid4

import pytest
from psycopg_pool import ConnectionPool

from domain.core.aggregate import because
from domain.datasets.dataset import Dataset, DatasetStatus, UploadOptions
from domain.datasets.filters import Filters, PersonalData
from domain.datasets.findings import Finding
from extensions.quality import filtering
from extensions.quality.comparisons import ComparisonKind, comparison, request_comparison
from extensions.quality.domain.quality_report import Contamination, Difference, QualityReport
from extensions.quality.process_limits import limits_of
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.store import Connection
from infrastructure.process.limited_process import Exceeded, LimitExceeded, Limits
from services.datasets import limited_work
from tests.builders.examples import ACCOUNT_ID
from tests.builders.planted import Writer, line_of
from tests.extensions.quality.conftest import QualityService

CHATS = [Writer(1).chat(), *(Writer(seed).chat() for seed in range(2, 12))]
MAIL = "jane.doe@example.com"


def content_of(chats: list[list[str]]) -> bytes:
    return b"".join(line_of(chat) + b"\n" for chat in chats)


def with_findings() -> bytes:
    """Return a file with a blank line 2, a near-duplicate in line 3, and an address in line 13."""
    near = [CHATS[0][0], CHATS[0][1].replace(".", "!", 1)]
    lines = content_of([CHATS[0], near, *CHATS[1:10], [f"Write to {MAIL}.", CHATS[10][1]]])
    return lines.replace(b"\n", b"\n\n", 1)


def filtered(service: QualityService, parent_id: UUID, filters: Filters) -> UUID:
    """Create a filtered version, like the gateway, and validate it."""
    parent, new_id = service.dataset(parent_id), uuid4()
    options = UploadOptions(parent=parent_id, filters=filters)
    with because(replace(service.platform.cause, now=datetime.now(UTC))):
        size = service.platform.artifacts.size(parent.ref)
        service.platform.log.commit(
            Dataset.uploaded(new_id, ACCOUNT_ID, parent.ref, parent.sha256, size, options)
        )
    service.catch_up()
    return new_id


@pytest.mark.full
def test_the_limits_of_filters_grow_with_all_files_that_they_read(
    service: QualityService, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, other = (service.upload(content_of(chats)) for chats in (CHATS[:2], CHATS[2:]))
    service.catch_up()
    sizes: list[int] = []
    monkeypatch.setattr(service.filtering, "_limits", None)
    monkeypatch.setattr(
        filtering, "limits_of", lambda size, _: sizes.append(size) or limits_of(size)
    )

    def exceed(*_: object) -> NoReturn:
        raise LimitExceeded(Exceeded.TIME)

    monkeypatch.setattr(limited_work, "run", exceed)
    artifacts = service.platform.artifacts
    own, added = (artifacts.size(service.dataset(each).ref) for each in (training, other))
    filtered(service, training, Filters(near_duplicates=True))
    filtered(service, training, Filters(contaminates=other))
    assert sizes == [own, own + added]


def test_an_analysis_follows_the_validation_and_filters_make_versions(
    service: QualityService, pool: ConnectionPool[Connection]
) -> None:
    first = service.upload(with_findings())
    service.catch_up()
    assert service.dataset(first).status is DatasetStatus.READY_FOR_TRAINING
    assert service.dataset(first).quality is None
    service.analyze()
    quality = service.dataset(first).quality
    assert quality is not None
    stored = service.platform.artifacts.get(quality.report_ref)
    assert hashlib.sha256(stored).hexdigest() == quality.report_sha256
    report = QualityReport.model_validate_json(stored)
    assert quality.findings == dict(report.counts)
    assert (report.analyzed, report.examples, report.stopped) == (12, 12, None)
    near, mail = report.of_kind(Finding.NEAR_DUPLICATE), report.of_kind(Finding.EMAIL_ADDRESS)
    assert near is not None
    assert mail is not None
    assert (near.lines, near.samples[0].like_line) == ((3,), 1)
    assert mail.lines == (13,)
    assert report.statistics.with_system_prompt == 12
    assert report.statistics.distinct_system_prompts == 1
    events = list(service.platform.log.events.get(first))
    assert MAIL not in repr(events)
    assert CHATS[0][0] not in repr(events)

    filters = Filters(near_duplicates=True, personal_data=PersonalData.MASK)
    second, again = filtered(service, first, filters), filtered(service, first, filters)
    assert service.dataset(second).sha256 == service.dataset(again).sha256
    assert service.dataset(second).examples == 11
    examples = service.platform.artifacts.get(service.dataset(second).ref)
    assert MAIL.encode() not in examples
    assert b"Write to [EMAIL_ADDRESS]." in examples
    third = filtered(service, second, Filters(min_characters=1))
    service.analyze()
    assert service.dataset(third).sha256 == service.dataset(second).sha256
    unfiltered = service.dataset(third).quality
    assert unfiltered is not None
    assert unfiltered.findings == {}

    key = (third, first, ComparisonKind.DIFFERENCE)
    with pool.connection() as connection:
        request_comparison(connection, ACCOUNT_ID, key)
    service.compare()
    with pool.connection() as connection:
        row = comparison(connection, key)
    assert row is not None
    found = Difference(**json.loads(service.platform.artifacts.get(row["ref"])))
    assert (found.unchanged, found.added, found.removed, found.changed) == (10, 0, 1, 1)
    assert found.removed_examples[0].old_line == 3
    assert (found.changed_examples[0].old_line, found.changed_examples[0].line) == (13, 13)

    service.delete(second)
    service.catch_up()
    assert service.platform.artifacts.exists(row["ref"])
    assert service.platform.artifacts.exists(service.dataset(first).ref)
    assert service.platform.artifacts.exists(service.dataset(third).ref)
    service.delete(first)
    service.catch_up()
    service.clean()
    assert not service.platform.artifacts.exists(row["ref"])  # it has texts of the deleted dataset
    assert service.platform.artifacts.exists(service.dataset(third).ref)


@pytest.mark.usefixtures("analyses_in_this_process")
def test_a_result_that_cannot_be_deleted_delays_no_comparison(
    service: QualityService, pool: ConnectionPool[Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (service.upload(content_of(CHATS[n:])) for n in range(3))
    service.catch_up()
    old, new = ((one, second, ComparisonKind.DIFFERENCE) for one in (first, third))
    with pool.connection() as connection:
        request_comparison(connection, ACCOUNT_ID, old)
    service.compare()
    service.delete(first)
    service.catch_up()

    def refuse(*_: object) -> NoReturn:
        raise PermissionError

    with monkeypatch.context() as patched:
        patched.setattr(Artifacts, "delete", refuse)
        service.clean()
        with pool.connection() as connection:
            request_comparison(connection, ACCOUNT_ID, new)
        service.compare()
        with pool.connection() as connection:
            assert comparison(connection, old) is not None
    with pool.connection() as connection:
        row = comparison(connection, new)
    assert row is not None
    assert row["state"] == "done"
    service.clean()
    with pool.connection() as connection:
        assert comparison(connection, old) is None


@pytest.mark.usefixtures("analyses_in_this_process")
def test_a_dataset_deleted_during_its_comparison_leaves_no_result(
    service: QualityService, pool: ConnectionPool[Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = service.upload(with_findings()), service.upload(content_of(CHATS[:2]))
    service.catch_up()
    run = limited_work.run

    def delete_meanwhile(*arguments: object) -> object:
        result = run(*arguments)  # type: ignore[arg-type]
        service.delete(first)
        service.consumer.catch_up()
        return result

    monkeypatch.setattr(limited_work, "run", delete_meanwhile)
    key = (second, first, ComparisonKind.DIFFERENCE)
    with pool.connection() as connection:
        request_comparison(connection, ACCOUNT_ID, key)
    service.comparing.compare(key)
    with pool.connection() as connection:
        assert comparison(connection, key) is None
    home = service.dataset(second).home
    assert not [each for each in service.platform.artifacts.list(home) if "comparisons" in each]


@pytest.mark.full
def test_filters_need_their_parent_and_leave_an_example(service: QualityService) -> None:
    first = service.upload(with_findings())
    service.catch_up()
    none_left = filtered(service, first, Filters(min_characters=10**6))
    assert service.dataset(none_left).status is DatasetStatus.REJECTED
    assert "leave no examples" in service.report(none_left).errors[0].message
    service.delete(first)
    orphan = filtered(service, first, Filters(near_duplicates=True))
    assert service.dataset(orphan).status is DatasetStatus.REJECTED
    assert "was deleted" in service.report(orphan).errors[0].message


@pytest.mark.full
@pytest.mark.usefixtures("analyses_in_this_process")
def test_training_and_validation_datasets_are_compared_once_requested(
    service: QualityService, pool: ConnectionPool[Connection]
) -> None:
    train = service.upload(with_findings())
    near = [CHATS[4][0], CHATS[4][1].replace(".", "!", 1)]
    validation = service.upload(content_of([CHATS[2], near, Writer(99).chat()]))
    service.catch_up()
    key = (train, validation, ComparisonKind.CONTAMINATION)
    with pool.connection() as connection:
        for _ in range(2):
            request_comparison(connection, ACCOUNT_ID, key)
    service.compare()
    with pool.connection() as connection:
        row = comparison(connection, key)
    assert row is not None
    found = Contamination(**json.loads(service.platform.artifacts.get(row["ref"])))
    assert (found.exact, found.near, found.affected) == (1, 1, 2)
    assert found.lines == (5, 7)
    assert row["counts"]["affected"] == 2
    service.clean()
    with pool.connection() as connection:
        assert comparison(connection, key) == row
    service.delete(validation)
    service.catch_up()
    service.clean()
    with pool.connection() as connection:
        assert comparison(connection, key) is None


@pytest.mark.full
def test_an_analysis_beyond_its_limits_is_recorded_without_findings(
    service: QualityService,
) -> None:
    first = service.upload(with_findings())
    service.catch_up()
    service.limit(Limits(cpu_seconds=1, wall_seconds=60, memory_mib=2048))
    service.analyze()
    quality = service.dataset(first).quality
    assert quality is not None
    assert (quality.analyzed, quality.findings) == (0, {})
    report = QualityReport.model_validate_json(service.platform.artifacts.get(quality.report_ref))
    assert report.stopped == "time"
