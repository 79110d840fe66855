"""The audit: clean on what the log made, and blind to no kind of tampering."""

from __future__ import annotations

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from domain.event_log import EventLog
from domain.job import SegmentEnd
from infrastructure.consumer import OrderedConsumer
from infrastructure.settings import Settings
from infrastructure.store import Connection, connect
from projections import ACCOUNTS, BILLING_LEDGER, OPEN_METERS, PROJECTIONS
from projections.projection import Projection, ProjectionEffect
from services.projector.audit import audit
from tests.domain.examples import JOB_ID
from tests.logs import ids
from tests.stories import Story

pytestmark = pytest.mark.full


@pytest.fixture
def story(log: EventLog) -> Story:
    return Story(log)


def fold(
    log: EventLog,
    pool: ConnectionPool[Connection],
    *projections: Projection,
    stop: int | None = None,
) -> None:
    for projection in projections or PROJECTIONS:
        OrderedConsumer(ProjectionEffect(projection, pool.connection), log).catch_up(stop)


def test_what_the_log_made_is_clean(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], story: Story
) -> None:
    story.run_with_a_crash()
    story.undeploy(story.deploy_checkpoint(10))
    fold(log, pool)
    findings = audit(settings)
    assert findings.differences == []
    assert findings.trial_balance_micros == 0
    assert (findings.events, findings.head) == (len(ids(log)), ids(log)[-1])
    assert (findings.accounts, findings.meters, findings.minutes) == (1, 2, 5)
    tables = [table for projection in PROJECTIONS for table in projection.tables]
    assert [comparison.table for comparison in findings.tables] == tables
    assert all(
        comparison.live.rows
        for comparison in findings.tables
        if comparison.table
        not in ("open_meters", "dataset_tokens", "dataset_refusals", "gpu_claims")
    )


def test_it_says_how_far_each_projection_lags_behind_the_log(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], story: Story
) -> None:
    story.run_until("training")
    fold(log, pool)
    story.top_up(500, "INV-7")
    fold(log, pool, ACCOUNTS)
    lags = {comparison.table: comparison.lag for comparison in audit(settings).tables}
    assert (lags["accounts"], lags["billing_ledger"]) == (0, 2)


def test_an_empty_platform_is_clean(settings: Settings) -> None:
    assert audit(settings).differences == []


def test_each_projection_is_held_against_the_log_at_its_own_position(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], story: Story
) -> None:
    story.run_until("training")
    fold(log, pool, ACCOUNTS)
    story.end_segment(1, SegmentEnd.STOPPED, 90)
    fold(log, pool, BILLING_LEDGER, OPEN_METERS)
    assert audit(settings).differences == []


def test_a_ledger_is_clean_wherever_its_projector_stops(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], story: Story
) -> None:
    """Also between the events of one save, as a batch may end there."""
    story.run_until("training")
    start = ids(log)[-1]
    story.bill(1, 61)
    story.end_segment(1, SegmentEnd.CRASHED, 100)
    for position in ids(log):
        if position <= start:
            continue
        fold(log, pool, BILLING_LEDGER, stop=position)
        assert audit(settings).differences == [], f"at {position}"


TAMPERING = {
    "a balance": ("accounts", "UPDATE accounts SET balance_micros = balance_micros + 1"),
    "a name": ("base_models", "UPDATE base_models SET architecture = 'other'"),
    "a deleted row": ("models", "DELETE FROM models"),
    "an added row": (
        "api_keys",
        "INSERT INTO api_keys SELECT gen_random_uuid(), account_id, hint, issued_at FROM api_keys",
    ),
    "a nested field": (
        "job_timeline",
        "UPDATE job_timeline SET fields = fields || '{\"step\": 9}'"
        " WHERE topic = 'CheckpointSaved'",
    ),
    "a float": ("job_detail", "UPDATE job_detail SET loss_after = loss_after - 1e-12"),
    "a null": ("datasets", "UPDATE datasets SET report_ref = NULL"),
    "a count": ("gpu_pools", "UPDATE gpu_pools SET waiting = 1"),
    "a forgotten meter": (
        "open_meters",
        "INSERT INTO open_meters SELECT gen_random_uuid(), account_id, job_id, 9 FROM job_detail",
    ),
    "an invented count": (
        "dataset_tokens",
        "INSERT INTO dataset_tokens SELECT dataset_id, 'tiny', '', 1, 1 FROM datasets",
    ),
    "a posting": (
        "billing_ledger",
        "UPDATE billing_ledger SET amount_micros = amount_micros + 1 "
        "WHERE reason = 'credit granted'",
    ),
    "a moved posting": (
        "billing_ledger",
        "UPDATE billing_ledger SET posted_at = posted_at + interval '1 microsecond'",
    ),
    "an early position": (
        "accounts",
        "UPDATE projection_positions SET position = 2 WHERE name = 'accounts'",
    ),
}


@pytest.mark.parametrize(("table", "statement"), TAMPERING.values(), ids=TAMPERING.keys())
def test_tampering_with_a_row_is_found_and_named(
    settings: Settings,
    log: EventLog,
    pool: ConnectionPool[Connection],
    story: Story,
    table: str,
    statement: str,
) -> None:
    story.run_with_a_crash()
    fold(log, pool)
    with connect(settings) as connection:
        assert connection.execute(statement.encode()).rowcount > 0
    assert f"{table} differs from the refold of the log" in audit(settings).differences


@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        (
            "UPDATE billing_ledger SET amount_micros = amount_micros - 1 "
            "WHERE reason = 'credit granted'",
            "its ledger says",
        ),
        (
            "UPDATE billing_ledger SET credit = 'pocket' WHERE reason = 'lease released'",
            "its ledger says",
        ),
    ],
)
def test_an_account_whose_ledger_says_otherwise_is_found(
    settings: Settings,
    log: EventLog,
    pool: ConnectionPool[Connection],
    story: Story,
    statement: str,
    finding: str,
) -> None:
    story.run_with_a_crash()
    fold(log, pool)
    with connect(settings) as connection:
        connection.execute(statement.encode())
    assert [each for each in audit(settings).differences if finding in each]


def rewrite(settings: Settings, topic: str, field: str, value: str) -> None:
    """What only the owner of the database can do to the log."""
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url) as owner:
        changed = owner.execute(
            "UPDATE ecolink_events SET state = convert_to(jsonb_set("
            "convert_from(state, 'UTF8')::jsonb, %s, %s::jsonb)::text, 'UTF8') "
            "WHERE topic = %s",
            [[field], value, topic],
        )
        assert changed.rowcount > 0


@pytest.mark.parametrize(
    ("topic", "field", "value", "finding"),
    [
        ("MinuteMetered", "amount_micros", "1", "rate x seconds is"),
        ("MinuteMetered", "from_seconds", "7", "does not follow the one before"),
        ("CreditGranted", "amount_micros", "150000", "more reserved than it holds"),
        ("UsageSettled", "captured_micros", "0", "its ledger says"),
    ],
)
def test_a_log_that_its_owner_rewrote_is_found_even_when_it_is_projected_anew(
    settings: Settings,
    log: EventLog,
    pool: ConnectionPool[Connection],
    story: Story,
    topic: str,
    field: str,
    value: str,
    finding: str,
) -> None:
    story.run_until("training")
    story.bill(1, 130)
    rewrite(settings, topic, field, value)
    fold(log, pool)
    assert [each for each in audit(settings).differences if finding in each]


@pytest.mark.parametrize(
    ("topic", "field", "value", "pair"),
    [
        ("ToppedUp", "amount_micros", "1", "payment"),
        ("PaymentReceived", "reference", '"other"', "payment"),
        ("ChargeReversed", "amount_micros", "1", "lost work"),
        ("LostWorkCredited", "to_seconds", "99", "lost work"),
    ],
)
def test_two_events_of_a_save_that_no_longer_agree_are_found(
    settings: Settings,
    log: EventLog,
    pool: ConnectionPool[Connection],
    story: Story,
    topic: str,
    field: str,
    value: str,
    pair: str,
) -> None:
    story.run_until("training")
    story.top_up(500, "INV-7")
    story.end_segment(1, SegmentEnd.CRASHED, 200)
    fold(log, pool)
    assert audit(settings).differences == []
    rewrite(settings, topic, field, value)
    findings = audit(settings).differences
    assert len([each for each in findings if f"only one of two events says ('{pair}'" in each]) == 2


def test_an_audit_reads_no_snapshot(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], story: Story
) -> None:
    story.run_until("training")
    fold(log, pool)
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url) as owner:
        owner.execute(
            "INSERT INTO ecolink_snapshots SELECT originator_id, originator_version, 'nonsense', "
            "'x' FROM ecolink_events"
        )
    assert audit(settings).differences == []


def test_an_audit_changes_nothing(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], story: Story
) -> None:
    story.run_with_a_crash()
    fold(log, pool)
    before = ids(log), log.load(type(story.job), JOB_ID).version
    audit(settings)
    assert (ids(log), log.load(type(story.job), JOB_ID).version) == before
    assert audit(settings).differences == []
