"""The audit: no differences on an untouched platform, and each kind of tampering."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest
from eventsourcing.persistence import Tracking
from psycopg_pool import ConnectionPool

from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.core.aggregate import Cause, Event, because
from domain.core.event_log import EventLog
from domain.datasets.dataset import Dataset
from domain.jobs import events
from domain.jobs.job import SegmentEnd
from domain.jobs.job_request import JobRequest
from infrastructure.consumer import OrderedConsumer, recorded
from infrastructure.measurements import add_evidence
from infrastructure.profiles import delete_dataset_name, set_dataset_name
from infrastructure.settings import Settings
from infrastructure.store import Connection, connect, open_log
from projections import ACCOUNTS, BILLING_LEDGER, OPEN_METERS, PROJECTIONS
from projections.projection import Projection, ProjectionEffect
from services.projector.audit import audit
from services.projector.store_checks import DifferenceKind
from tests.builders.commands import NOW, command
from tests.builders.examples import ACCOUNT_ID, DATASET_ID, JOB_ID
from tests.builders.history import History
from tests.domain.jobs.test_job_request import CHOICES, ORDER
from tests.logs import grow, ids, notifications

pytestmark = pytest.mark.full


@pytest.fixture
def history(log: EventLog) -> History:
    return History(log)


def fold(
    log: EventLog,
    pool: ConnectionPool[Connection],
    *projections: Projection,
    stop: int | None = None,
) -> None:
    for projection in projections or PROJECTIONS:
        OrderedConsumer(ProjectionEffect(projection, pool.connection), log).catch_up(stop)
    with pool.connection() as connection:
        for event in events_of(log):
            if isinstance(event, Meter.MinuteMetered):
                add_evidence(connection, event.job_id, event.segment, event.to_seconds)


def events_of(log: EventLog) -> list[Event]:
    return [recorded(log, notification).event for notification in notifications(log)]


def test_an_untouched_platform_has_no_differences(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], history: History
) -> None:
    history.run_with_a_crash()
    history.undeploy(history.deploy_checkpoint(10))
    with command("request another job"):
        log.commit(JobRequest.ordered(uuid4(), ACCOUNT_ID, CHOICES, ORDER))
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


def test_the_audit_reports_the_lag_of_each_projection(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], history: History
) -> None:
    history.run_until("training")
    fold(log, pool)
    history.top_up(500, "INV-7")
    fold(log, pool, ACCOUNTS)
    lags = {comparison.table: comparison.lag for comparison in audit(settings).tables}
    assert (lags["accounts"], lags["billing_ledger"]) == (0, 2)


def test_an_empty_platform_has_no_differences(settings: Settings) -> None:
    assert audit(settings).differences == []


def test_each_projection_is_compared_at_its_own_position(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], history: History
) -> None:
    history.run_until("training")
    fold(log, pool, ACCOUNTS)
    history.end_segment(1, SegmentEnd.STOPPED, 90)
    fold(log, pool, BILLING_LEDGER, OPEN_METERS)
    assert audit(settings).differences == []


def test_a_ledger_has_no_differences_at_any_position(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], history: History
) -> None:
    """Even between the events of one save, where a batch may end."""
    history.run_until("training")
    start = ids(log)[-1]
    history.bill(1, 61)
    history.end_segment(1, SegmentEnd.CRASHED, 100)
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
        "INSERT INTO dataset_tokens SELECT dataset_id, 'tiny', '', 1, 1, '{}' FROM datasets",
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
def test_a_changed_row_is_reported(
    settings: Settings,
    log: EventLog,
    pool: ConnectionPool[Connection],
    history: History,
    table: str,
    statement: str,
) -> None:
    history.run_with_a_crash()
    fold(log, pool)
    with connect(settings) as connection:
        assert connection.execute(statement.encode()).rowcount > 0
    assert table in text_of(settings, DifferenceKind.TABLE)


@pytest.mark.parametrize(
    "statement",
    [
        (
            "UPDATE billing_ledger SET amount_micros = amount_micros - 1 "
            "WHERE reason = 'credit granted'"
        ),
        "UPDATE billing_ledger SET credit = 'pocket' WHERE reason = 'lease released'",
    ],
)
def test_a_ledger_that_differs_from_its_account_is_reported(
    settings: Settings,
    log: EventLog,
    pool: ConnectionPool[Connection],
    history: History,
    statement: str,
) -> None:
    history.run_with_a_crash()
    fold(log, pool)
    with connect(settings) as connection:
        connection.execute(statement.encode())
    assert text_of(settings, DifferenceKind.BALANCE)


def rewrite(settings: Settings, topic: str, field: str, value: str) -> None:
    """Change events as the database's owner."""
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
    ("topic", "field", "value", "kind"),
    [
        ("MinuteMetered", "amount_micros", "1", DifferenceKind.METER_CHARGE),
        ("MinuteMetered", "from_seconds", "7", DifferenceKind.MINUTE_GAP),
        ("CreditGranted", "amount_micros", "150000", DifferenceKind.OVER_RESERVED),
        ("UsageSettled", "captured_micros", "0", DifferenceKind.BALANCE),
    ],
)
def test_a_rewritten_log_is_reported_even_after_a_refold(
    settings: Settings,
    log: EventLog,
    pool: ConnectionPool[Connection],
    history: History,
    topic: str,
    field: str,
    value: str,
    kind: DifferenceKind,
) -> None:
    history.run_until("training")
    history.bill(1, 130)
    rewrite(settings, topic, field, value)
    fold(log, pool)
    assert text_of(settings, kind)


@pytest.mark.parametrize(
    ("topic", "field", "value", "pair"),
    [
        ("ToppedUp", "amount_micros", "1", "payment"),
        ("PaymentReceived", "reference", '"other"', "payment"),
        ("ChargeReversed", "amount_micros", "1", "lost work"),
        ("LostWorkCredited", "to_seconds", "99", "lost work"),
    ],
)
def test_two_events_that_no_longer_agree_are_reported(
    settings: Settings,
    log: EventLog,
    pool: ConnectionPool[Connection],
    history: History,
    topic: str,
    field: str,
    value: str,
    pair: str,
) -> None:
    history.run_until("training")
    history.top_up(500, "INV-7")
    history.end_segment(1, SegmentEnd.CRASHED, 200)
    fold(log, pool)
    assert audit(settings).differences == []
    rewrite(settings, topic, field, value)
    found = text_of(settings, DifferenceKind.UNPAIRED).splitlines()
    assert len([each for each in found if f"('{pair}'" in each]) == 2


def as_owner(settings: Settings, statement: str, *values: object) -> None:
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url) as owner:
        assert owner.execute(statement.encode(), values).rowcount != 0


def text_of(settings: Settings, kind: DifferenceKind) -> str:
    """The texts of an audit's differences of one kind, one per line."""
    return "\n".join(each.text for each in audit(settings).differences if each.kind is kind)


def test_a_genuine_snapshot_has_no_differences(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection]
) -> None:
    with open_log(settings, takes_snapshots=True) as billing:
        grow(billing, 1001)
    fold(log, pool)
    findings = audit(settings)
    assert (findings.snapshots, findings.differences) == (1, [])


def test_a_forged_snapshot_is_reported_and_changes_no_balance(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection]
) -> None:
    """A superuser inserts a complete snapshot without the secret."""
    with open_log(settings, takes_snapshots=True) as billing:
        grow(billing, 1001)
        account = billing.load(Account, ACCOUNT_ID)
    fold(log, pool)
    as_owner(
        settings,
        "INSERT INTO ecolink_snapshots SELECT originator_id, 1001, topic, convert_to(replace("
        "convert_from(state, 'UTF8'), %s, %s), 'UTF8') FROM ecolink_snapshots",
        *('\\"balance_micros\\":999,', '\\"balance_micros\\":1000000000000,'),
    )
    name = f"the snapshot of account {ACCOUNT_ID} at version 1001"
    assert name in text_of(settings, DifferenceKind.SNAPSHOT_FORGED)
    state = text_of(settings, DifferenceKind.SNAPSHOT_STATE)
    assert name in state
    assert "$1,000,000.00" in state
    assert log.load(Account, ACCOUNT_ID) == account
    without_secret = settings.model_copy(update={"snapshot_secret": None})
    assert text_of(without_secret, DifferenceKind.SNAPSHOT_STATE) == state


def test_unreadable_and_unknown_snapshots_are_reported(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], history: History
) -> None:
    history.run_until("training")
    fold(log, pool)
    insert = "INSERT INTO ecolink_snapshots VALUES (%s, %s, 'AccountSnapshot', 'x')"
    as_owner(settings, insert, ACCOUNT_ID, 1)
    as_owner(settings, insert, ACCOUNT_ID, 9999)
    as_owner(settings, insert, JOB_ID, 1)
    assert f"{ACCOUNT_ID} at version 1 " in text_of(settings, DifferenceKind.SNAPSHOT_UNREADABLE)
    ahead = text_of(settings, DifferenceKind.SNAPSHOT_AHEAD)
    for id, version in ((ACCOUNT_ID, 9999), (JOB_ID, 1)):
        assert f"{id} at version {version} " in ahead


def handle(settings: Settings, log: EventLog, pool: ConnectionPool[Connection]) -> None:
    """Set the positions of billing and scheduler to the log's end."""
    fold(log, pool)
    for service in ("billing", "scheduler"):
        log.process_recorder.insert_tracking(Tracking(service, ids(log)[-1]))


def test_positions_beyond_the_log_are_reported(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], history: History
) -> None:
    history.run_until("training")
    handle(settings, log, pool)
    assert audit(settings).differences == []
    head = ids(log)[-1]
    log.process_recorder.insert_tracking(Tracking("serving", head + 1))
    as_owner(settings, "UPDATE projection_positions SET position = %s WHERE name = 'models'", 9999)
    found = text_of(settings, DifferenceKind.POSITION_AHEAD)
    assert f"serving, {head + 1}," in found
    assert "projection-models, 9999," in found


def test_a_position_that_moved_back_is_reported(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], history: History
) -> None:
    history.open_account(1_000_000)
    with because(Cause("service:billing", "billing:5", NOW)):
        account = history.account
        account.grant_credit(1, "an answer to the fifth event")
        log.commit(account, tracking=Tracking("billing", 5))
    fold(log, pool)
    assert not text_of(settings, DifferenceKind.POSITION_BEHIND)
    as_owner(settings, "ALTER TABLE ecolink_tracking DISABLE TRIGGER forward_only")
    as_owner(settings, "UPDATE ecolink_tracking SET notification_id = 4 WHERE notification_id = 5")
    assert "billing, 4," in text_of(settings, DifferenceKind.POSITION_BEHIND)


def test_a_position_that_skipped_events_is_reported(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], history: History
) -> None:
    history.run_until("approved")
    handle(settings, log, pool)
    history.allocate_segment(1)
    handle(settings, log, pool)
    assert f"segment 1 of job {JOB_ID}" in text_of(settings, DifferenceKind.NO_METER)
    history.grant_lease(1)
    handle(settings, log, pool)
    assert audit(settings).differences == []


def pass_all(log: EventLog, service: str) -> None:
    log.process_recorder.insert_tracking(Tracking(service, ids(log)[-1]))


def test_a_base_that_serving_skipped_is_reported(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], history: History
) -> None:
    history.import_base()
    fold(log, pool)
    assert audit(settings).differences == []
    pass_all(log, "serving")
    assert "tiny" in text_of(settings, DifferenceKind.NOT_DEPLOYED)
    history.deploy_base()
    fold(log, pool)
    assert audit(settings).differences == []


def test_a_deleted_base_need_not_be_deployed(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], history: History
) -> None:
    base = history.import_base()
    with because(Cause("operator", "delete", NOW)):
        base.delete()
        log.commit(base)
    fold(log, pool)
    pass_all(log, "serving")
    assert audit(settings).differences == []


def test_a_deletion_that_datasets_skipped_is_reported(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], history: History
) -> None:
    history.open_account(1)
    history.prepare_dataset()
    with pool.connection() as connection:
        set_dataset_name(connection, DATASET_ID, "letters")
    with because(Cause("user", "delete", NOW)):
        dataset = log.load(Dataset, DATASET_ID)
        dataset.delete(())
        log.commit(dataset)
    fold(log, pool)
    assert audit(settings).differences == []
    pass_all(log, "datasets")
    assert str(DATASET_ID) in text_of(settings, DifferenceKind.NAME_KEPT)
    with pool.connection() as connection:
        delete_dataset_name(connection, DATASET_ID)
    assert audit(settings).differences == []


def test_a_parked_event_does_not_count_as_skipped(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], history: History
) -> None:
    history.run_until("approved")
    history.allocate_segment(1)
    handle(settings, log, pool)
    (allocated,) = [
        each.id for each in notifications(log) if each.topic == events.SegmentAllocated.TOPIC
    ]
    as_owner(
        settings,
        "INSERT INTO parked_events VALUES ('billing', %s, %s, 'SegmentAllocated', 'x')",
        *(allocated, JOB_ID),
    )
    assert audit(settings).differences == []


@pytest.mark.parametrize(
    ("statement", "kind", "shown"),
    [
        ("DELETE FROM segment_evidence", DifferenceKind.NO_EVIDENCE, "120 s"),
        (
            "UPDATE segment_evidence SET elapsed_seconds = 60",
            DifferenceKind.NO_EVIDENCE,
            "60 s",
        ),
        (
            "UPDATE segment_evidence SET elapsed_seconds = 1e9",
            DifferenceKind.TOO_MUCH_EVIDENCE,
            "1000000000 s",
        ),
        (
            "UPDATE segment_evidence SET segment = 7",
            DifferenceKind.UNKNOWN_SEGMENT,
            "segment 7",
        ),
    ],
)
def test_evidence_that_contradicts_the_bill_is_reported(
    settings: Settings,
    log: EventLog,
    pool: ConnectionPool[Connection],
    history: History,
    statement: str,
    kind: DifferenceKind,
    shown: str,
) -> None:
    history.run_until("training")
    history.bill(1, 130)
    fold(log, pool)
    assert audit(settings).differences == []
    as_owner(settings, statement)
    assert shown in text_of(settings, kind)


def test_an_audit_changes_nothing(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], history: History
) -> None:
    history.run_with_a_crash()
    fold(log, pool)
    before = ids(log), log.load(type(history.job), JOB_ID).version
    audit(settings)
    assert (ids(log), log.load(type(history.job), JOB_ID).version) == before
    assert audit(settings).differences == []
