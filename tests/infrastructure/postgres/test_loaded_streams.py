"""Aggregates in memory: loaded in bulk, from snapshots, and brought up to date."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.core.aggregate import Cause
from domain.core.errors import NotFound
from domain.core.event_log import EventLog
from infrastructure.postgres.loaded_streams import LoadedStreams
from infrastructure.postgres.store import Connection, open_log
from infrastructure.settings import Settings
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID
from tests.logs import grow

END = 2**62
"""A position after all events."""

pytestmark = pytest.mark.usefixtures("unseeded")


@pytest.fixture(autouse=True)
def cause() -> Iterator[Cause]:
    with command() as cause:
        yield cause


@pytest.fixture
def billing(settings: Settings) -> Iterator[EventLog]:
    """The log of billing, which takes snapshots."""
    with open_log(settings, takes_snapshots=True) as opened:
        yield opened


@pytest.fixture
def connection(pool: ConnectionPool[Connection]) -> Iterator[Connection]:
    with pool.connection() as connection:
        yield connection


def metered(log: EventLog, minutes: int) -> Meter:
    """Return a stored meter with some minutes, of one event each, saved one by one."""
    meter = Meter.open(ACCOUNT_ID, uuid4(), 1, 3_600_000)
    meter.extend_lease(60 * minutes + 1)
    for minute in range(1, minutes + 1):
        meter.post_minutes(60 * minute, 60)
        if minute % 50 == 0:
            log.commit(meter)
    log.commit(meter)
    return meter


def change_snapshots(settings: Settings, statement: str) -> None:
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url) as owner:
        assert owner.execute(statement.encode()).rowcount > 0


def test_many_aggregates_are_loaded_as_from_their_events(
    billing: EventLog, connection: Connection
) -> None:
    grow(billing, 1001)
    long, short = metered(billing, 450), metered(billing, 3)
    streams = LoadedStreams(billing)
    streams.refresh(connection, [ACCOUNT_ID, long.id, short.id], END)
    assert streams.load(Account, ACCOUNT_ID) == billing.load(Account, ACCOUNT_ID)
    assert streams.load(Meter, long.id) == long
    assert streams.load(Meter, short.id) == short


def test_a_meter_has_a_snapshot_every_200_events(billing: EventLog) -> None:
    meter = metered(billing, 450)
    assert billing.snapshots is not None
    versions = [each.originator_version for each in billing.snapshots.get(meter.id)]
    assert len(versions) in (2, 3)
    assert billing.load(Meter, meter.id) == meter


def test_stale_aggregates_get_the_new_events_of_other_writers(
    billing: EventLog, log: EventLog, connection: Connection
) -> None:
    meter, other = metered(billing, 3), metered(billing, 3)
    streams = LoadedStreams(billing)
    streams.refresh(connection, [meter.id, other.id], END)
    meter.close(185, 60)
    log.commit(meter)
    assert not streams.load(Meter, meter.id).closed
    assert streams.mark_if_older(meter.id, meter.version)
    assert not streams.mark_if_older(other.id, other.version), "nothing new"
    streams.refresh(connection, [meter.id, other.id], END)
    assert streams.load(Meter, meter.id) == meter


def test_a_dropped_aggregate_is_loaded_again(billing: EventLog, connection: Connection) -> None:
    meter = metered(billing, 3)
    streams = LoadedStreams(billing)
    streams.refresh(connection, [meter.id], END)
    streams.load(Meter, meter.id).close(185, 60)
    streams.drop([meter.id])
    streams.refresh(connection, [meter.id], END)
    assert streams.load(Meter, meter.id) == meter


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ecolink_snapshots SET state = 'x'",
        "UPDATE ecolink_snapshots SET originator_version = originator_version + 1",
        "UPDATE ecolink_snapshots SET originator_version = originator_version + 1000",
    ],
    ids=["no signature", "another version", "events that the log lacks"],
)
def test_a_snapshot_that_is_not_genuine_is_not_used(
    billing: EventLog, settings: Settings, connection: Connection, statement: str
) -> None:
    meter = metered(billing, 260)
    change_snapshots(settings, statement)
    streams = LoadedStreams(billing)
    streams.refresh(connection, [meter.id], END)
    assert streams.load(Meter, meter.id) == meter


def test_a_stream_that_cannot_be_read_is_left_out(
    billing: EventLog,
    settings: Settings,
    connection: Connection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad, good, unknown = metered(billing, 3), metered(billing, 3), uuid4()
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url) as owner:
        owner.execute("SET session_replication_role = replica")
        owner.execute("UPDATE ecolink_events SET state = 'x' WHERE originator_id = %s", [bad.id])
    streams = LoadedStreams(billing)
    streams.refresh(connection, [bad.id, good.id, unknown], END)
    assert streams.load(Meter, good.id) == good
    for each in (bad.id, unknown):
        with pytest.raises(NotFound, match=str(each)):
            streams.load(Meter, each)
    assert [record.args for record in caplog.records if record.levelno == logging.ERROR] == [
        (bad.id,)
    ]


def test_an_aggregate_of_another_kind_is_not_found(
    billing: EventLog, connection: Connection
) -> None:
    meter: UUID = metered(billing, 1).id
    streams = LoadedStreams(billing)
    streams.refresh(connection, [meter], END)
    with pytest.raises(NotFound):
        streams.load(Account, meter)


def test_events_after_the_position_of_the_reader_are_not_read(
    billing: EventLog, connection: Connection
) -> None:
    meter = metered(billing, 3)
    position = billing.recorder.max_notification_id()
    assert position is not None
    streams = LoadedStreams(billing)
    streams.refresh(connection, [meter.id], position)
    meter.extend_lease(60)
    billing.commit(meter)
    streams.drop([meter.id])
    streams.refresh(connection, [meter.id], position)
    assert streams.load(Meter, meter.id).version == meter.version - 1
    streams.mark_if_older(meter.id, meter.version)
    streams.refresh(connection, [meter.id], position + 1)
    assert streams.load(Meter, meter.id) == meter


def test_a_snapshot_of_a_later_event_is_not_used(billing: EventLog, connection: Connection) -> None:
    grow(billing, 999)
    position = billing.recorder.max_notification_id()
    assert position is not None
    grow(billing, 2)
    streams = LoadedStreams(billing)
    streams.refresh(connection, [ACCOUNT_ID], position)
    assert streams.load(Account, ACCOUNT_ID).version == 999


def test_new_events_of_a_stale_aggregate_are_read(
    billing: EventLog, connection: Connection
) -> None:
    meter = metered(billing, 3)
    streams = LoadedStreams(billing)
    streams.refresh(connection, [meter.id], END)
    meter.extend_lease(60)
    billing.commit(meter)
    streams.mark_stale([meter.id, uuid4()])
    streams.refresh(connection, [meter.id], END)
    assert streams.load(Meter, meter.id) == meter
