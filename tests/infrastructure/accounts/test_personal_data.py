"""The lists of personal data are complete, and an erasure deletes all of it."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest

from deploy.database_roles import READ_MODELS, known_tables
from domain.billing.suspension import SuspensionReason
from domain.core.aggregate import because
from domain.core.event_log import EventLog
from domain.core.identity import job_request_id
from domain.jobs.job import Job
from domain.jobs.job_request import JobRequest
from domain.use_cases.erasing import Erasing
from infrastructure.accounts.personal_data import (
    KEPT,
    delete_personal_data,
    erased_accounts,
    holdings_of,
    personal_tables,
)
from infrastructure.extensions import extension_tables
from infrastructure.postgres.store import Connection, connect
from infrastructure.settings import Settings
from tests.builders.examples import ESTIMATE, PLAN
from tests.builders.platform import Person, Platform
from tests.domain.jobs.test_job_request import CHOICES, ORDER


@pytest.fixture
def platform(settings: Settings, log: EventLog) -> Platform:
    return Platform(settings, log)


@pytest.fixture
def connection(settings: Settings) -> Iterator[Connection]:
    with connect(settings) as opened:
        yield opened


def cascaded() -> set[str]:
    """All tables whose rows PostgreSQL deletes."""
    return {each.name for each in extension_tables() if each.cascades}


def test_every_table_is_in_one_list() -> None:
    kept = (each.name for each in extension_tables() if each.kept)
    lists = (set(personal_tables()), cascaded(), {*KEPT, *kept}, set(READ_MODELS))
    assert sum(map(len, lists)) == len(known_tables())
    assert set().union(*lists) == known_tables()


def test_only_columns_with_ids_of_the_account_select_rows(connection: Connection) -> None:
    for table, column in personal_tables().items():
        query = "SELECT data_type FROM information_schema.columns WHERE (table_name, column_name)"
        found = connection.execute(f"{query} = (%s, %s)".encode(), [table, column]).fetchall()
        assert [row["data_type"] for row in found] == ["uuid"], table


def test_deleted_tables_delete_the_rows_of_cascaded_ones(connection: Connection) -> None:
    rows = connection.execute(
        "SELECT conrelid::regclass::text AS child, confrelid::regclass::text AS parent "
        "FROM pg_constraint WHERE contype = 'f' AND confdeltype = 'c'"
    ).fetchall()
    parents = {row["child"]: row["parent"] for row in rows}
    for table in cascaded():
        while table in cascaded():
            table = parents[table]
        assert table in personal_tables()


def fill(connection: Connection, platform: Platform, person: Person, name: str) -> tuple[UUID, ...]:
    """Add a job, a request, a dataset, files and a row to every personal table."""
    job_id, requested_id, dataset_id = uuid4(), uuid4(), platform.upload(person.account_id, b"chat")
    with because(platform.cause):
        platform.log.commit(Job.approve(job_id, person.account_id, PLAN, ESTIMATE))
        request = JobRequest.ordered(requested_id, person.account_id, CHOICES, ORDER)
        platform.log.commit(request)
    for folder in ("uploads", "datasets", "jobs"):
        platform.artifacts.put(f"{folder}/{person.account_id}/x/file", b"text")
    ids = {
        "account_id": person.account_id,
        "key_id": person.key_id,
        "dataset_id": dataset_id,
        "job_id": requested_id,
    }
    for table, column in personal_tables().items():
        _insert(connection, table, {column: ids[column]}, name)
    endpoint = connection.execute(
        "SELECT id FROM webhook_endpoints WHERE account_id = %s", [person.account_id]
    ).fetchone()
    assert endpoint is not None
    for table in ("webhook_secrets", "webhook_deliveries"):
        _insert(connection, table, {"endpoint_id": endpoint["id"]}, name)
    return (job_id, requested_id, dataset_id)


def _insert(connection: Connection, table: str, known: dict[str, UUID], text: str) -> None:
    """Insert a row with a text in all columns of text, and any value in the others."""
    columns = connection.execute(
        "SELECT column_name AS name, data_type AS type FROM information_schema.columns "
        "WHERE table_name = %s AND is_nullable = 'NO' AND is_identity = 'NO'",
        [table],
    ).fetchall()
    anything = {
        "text": text,
        "uuid": uuid4(),
        "jsonb": f'{{"note": "{text}"}}',
        "timestamp with time zone": "2026-11-24T12:00:00Z",
        "boolean": True,
        "ARRAY": [text],
    }
    values = {each["name"]: anything.get(each["type"], 1) for each in columns} | known
    names = ", ".join(values)
    marks = ", ".join(["%s"] * len(values))
    query = f"INSERT INTO {table} ({names}) VALUES ({marks})"
    connection.execute(query.encode(), list(values.values()))


def rows_with(connection: Connection, text: str) -> set[str]:
    """Return the tables that have a text in any column."""
    return {
        table
        for table in known_tables()
        if connection.execute(
            f"SELECT 1 FROM {table} AS found WHERE strpos(found::text, %s) > 0 LIMIT 1".encode(),
            [text],
        ).fetchone()
    }


def test_an_erasure_deletes_the_rows_and_files_of_one_account(
    connection: Connection, platform: Platform, settings: Settings
) -> None:
    ada, bob = platform.person(dollars=5), platform.person()
    job_id, requested_id, dataset_id = fill(connection, platform, ada, "name-of-ada")
    fill(connection, platform, bob, "name-of-bob")
    texts = {*personal_tables(), "webhook_secrets", "webhook_deliveries"} - {
        "key_uses",
        "dataset_progress",
    }
    assert rows_with(connection, "name-of-ada") == texts
    held = holdings_of(connection, ada.account_id)
    assert (held.keys, held.datasets, held.jobs) == ((ada.key_id,), (dataset_id,), (job_id,))
    assert held.requests == (job_request_id(requested_id),)
    with because(platform.cause):
        platform.ecolink.suspend(ada.account_id, SuspensionReason.REQUEST)
        Erasing(platform.log).erase(ada.account_id, held)
    assert erased_accounts(connection) == {ada.account_id}
    deleted = delete_personal_data(connection, platform.artifacts, ada.account_id)
    assert (deleted.rows, deleted.files) == (len(personal_tables()), 3)
    assert rows_with(connection, "name-of-ada") == set()
    assert rows_with(connection, "name-of-bob") == texts
    left = platform.artifacts.list("")
    assert not [ref for ref in left if str(ada.account_id) in ref]
    assert len([ref for ref in left if str(bob.account_id) in ref]) == 3
    again = delete_personal_data(connection, platform.artifacts, ada.account_id)
    assert again == (0, 0)
