"""Reads of the event log for audits, on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest

from domain.core.event_log import EventLog
from domain.core.recorded import Recorded
from domain.replay.entry import DamagedEvent, Entry
from infrastructure.postgres.log_reader import EventReader, Selection
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.builders.commands import NOW
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.builders.history import History
from tests.logs import ids
from tests.simulation.story import told


@pytest.fixture
def reader(settings: Settings) -> Iterator[EventReader]:
    with connect(settings) as connection:
        yield EventReader(connection)


def tamper(settings: Settings, statement: str, *values: object) -> None:
    """Change rows as the database's owner."""
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url) as owner:
        assert owner.execute(statement.encode(), values).rowcount == 1


def topics(entries: Iterator[Entry]) -> list[str]:
    return [each.event.TOPIC for each in entries if isinstance(each, Recorded)]


def test_a_selection_of_everything_has_every_event_in_log_order(
    reader: EventReader, history: History
) -> None:
    history.run_with_a_crash()
    entries = list(reader.select(Selection()))
    assert [each.id for each in entries] == ids(history.log)
    assert reader.head() == entries[-1].id


def test_a_job_has_the_events_of_its_meters_claims_and_deployments(
    reader: EventReader, history: History
) -> None:
    history.run_with_a_crash()
    history.undeploy(history.deploy_checkpoint(10))
    other = history.another_job()
    other.approve_job()
    found = topics(reader.select(Selection(job_id=JOB_ID)))
    assert found.count("JobApproved") == 1
    assert {"MinuteMetered", "GpusRequested", "DeploymentRequested", "Undeployed"} <= set(found)
    assert "ChargeReversed" in found
    assert "AccountOpened" not in found
    assert found[-1] == "Undeployed"


def test_an_account_has_the_events_of_its_objects_and_no_others(
    reader: EventReader, history: History
) -> None:
    history.run_with_a_crash()
    mine = topics(reader.select(Selection(account_id=ACCOUNT_ID)))
    other = History(history.log, account_id=uuid4(), job_id=uuid4())
    other.open_account(1_000_000)
    other.approve_job()
    assert topics(reader.select(Selection(account_id=ACCOUNT_ID))) == mine
    assert {"AccountOpened", "ApiKeyIssued", "DatasetUploaded", "MeterOpened"} <= set(mine)
    both = topics(reader.select(Selection(account_id=other.account_id, job_id=JOB_ID)))
    assert both == []


def test_a_period_includes_its_start_and_not_its_end(reader: EventReader, history: History) -> None:
    history.run_until("approved")
    job = Selection(job_id=JOB_ID, since=NOW)
    assert "JobApproved" in topics(reader.select(job))
    assert topics(reader.select(Selection(job_id=JOB_ID, until=NOW))) == []
    late = Selection(job_id=JOB_ID, since=NOW + timedelta(seconds=1))
    assert topics(reader.select(late)) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("state = '\\xff'", "the state is not JSON"),
        ("state = 'null'", "the state is not a JSON object"),
        ("state = '{}'", "Field required"),
        ("state = NULL", "the state is not JSON"),
        ("topic = 'os:system'", "the topic 'os:system' is unknown"),
        ("topic = NULL", "the topic '' is unknown"),
        (
            "state = convert_to(replace(convert_from(state, 'UTF8'), ':00Z\"', ':00\"'), 'UTF8')",
            "has no time zone",
        ),
    ],
)
def test_a_damaged_row_is_an_entry_with_its_place(
    reader: EventReader, history: History, settings: Settings, change: str, problem: str
) -> None:
    history.run_until("training")
    event, position = history.last(), ids(history.log)[-1]
    tamper(
        settings,
        f"UPDATE ecolink_events SET {change} WHERE originator_id = %s AND originator_version = %s",
        *(event.originator_id, event.originator_version),
    )
    everything = reader.select(Selection(account_id=ACCOUNT_ID, job_id=JOB_ID, until=NOW))
    (found,) = [each for each in everything if isinstance(each, DamagedEvent)]
    assert found.event_id == event.event_id
    assert found.id == position
    assert problem in found.problem


@pytest.mark.usefixtures("unseeded")
def test_a_damaged_minute_is_found_by_the_stream_of_its_meter(
    reader: EventReader, settings: Settings, log: EventLog
) -> None:
    story = told(log)
    tamper(
        settings,
        "UPDATE ecolink_events SET state = '' WHERE notification_id = "
        "(SELECT min(notification_id) FROM ecolink_events WHERE topic = 'MinuteMetered')",
    )
    for selection in (Selection(job_id=story.job_id), Selection(account_id=story.account_id)):
        (found,) = [each for each in reader.select(selection) if isinstance(each, DamagedEvent)]
        assert found.topic == "MinuteMetered"


def test_events_are_found_by_both_of_their_ids(reader: EventReader, history: History) -> None:
    history.run_until("approved")
    last = reader.at(reader.head())
    assert isinstance(last, Recorded)
    assert reader.named(last.event.event_id) == last
    for unknown in ("", "x", "x:1", f"{uuid4()}:1", f"{JOB_ID}:x", f"{JOB_ID}:{10**30}"):
        assert reader.named(unknown) is None
    assert reader.at(10**30) is None


def test_a_stream_is_read_backwards_beyond_one_page(reader: EventReader, history: History) -> None:
    history.open_account(1_000_000)
    for number in range(45):
        history.top_up(1_000_000, f"payment-{number}")
    found = list(reader.backwards(ACCOUNT_ID, ["ToppedUp"], reader.head()))
    assert [each.id for each in found] == sorted((each.id for each in found), reverse=True)
    assert len(found) == 44  # without the last event


@pytest.mark.usefixtures("unseeded")
def test_effects_name_their_cause(reader: EventReader, log: EventLog) -> None:
    told(log)
    (cause, *_) = (
        each
        for each in reader.select(Selection())
        if isinstance(each, Recorded) and each.event.TOPIC == "SegmentAllocated"
    )
    assert topics(reader.effects(cause)) == ["MeterOpened", "LeaseGranted", "UsageSettled"]
