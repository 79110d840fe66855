"""The audit: no differences on an untouched platform, and each kind of tampering."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest
from eventsourcing.persistence import Tracking
from psycopg_pool import ConnectionPool

from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.capacity.gpu_pool import Claim, GpuPool
from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from domain.datasets.dataset import Dataset
from domain.jobs import events
from domain.jobs.job import SegmentEnd
from domain.jobs.job_request import JobRequest
from infrastructure.accounts.profiles import delete_dataset_name, set_dataset_name
from infrastructure.bus.consumer import OrderedConsumer, recorded
from infrastructure.extensions import installed
from infrastructure.postgres.store import Connection, open_log
from infrastructure.settings import Settings
from infrastructure.training.measurements import add_evaluation, add_evidence, add_step
from infrastructure.training.reports import EvaluationMeasured, StepMeasured
from projections import ACCOUNTS, BILLING_LEDGER, OPEN_METERS, PROJECTIONS
from projections.projection import Projection, ProjectionEffect
from services.projector.audit import Findings, audit
from services.projector.measurement_check import BASE_STEP
from services.projector.store_checks import Difference, DifferenceKind
from tests.builders.commands import NOW, command
from tests.builders.examples import ACCOUNT_ID, DATASET_ID, JOB_ID, PLAN
from tests.builders.history import History
from tests.domain.jobs.test_job_request import CHOICES, ORDER
from tests.logs import (
    grow,
    grow_with_an_incomplete_snapshot,
    ids,
    notifications,
)
from tests.simulation.story import limited

pytestmark = pytest.mark.full


class Audited:
    """A platform with folded projections, whose rows can be changed."""

    def __init__(self, settings: Settings, log: EventLog, pool: ConnectionPool[Connection]) -> None:
        self.settings, self.log, self.pool = settings, log, pool

    def fold(self, *projections: Projection, stop: int | None = None) -> None:
        """Bring projections, or all of them, and the evidence of segments up to the log's end."""
        for projection in projections or PROJECTIONS:
            effect = ProjectionEffect(projection, self.pool.connection)
            OrderedConsumer(effect, self.log).catch_up(stop)
        with self.pool.connection() as connection:
            for notification in notifications(self.log):
                event = recorded(self.log, notification).event
                if isinstance(event, Meter.MinuteMetered):
                    add_evidence(connection, event.job_id, event.segment, event.to_seconds)

    def pass_all(self, *services: str) -> None:
        """Fold all projections, and set the positions of services to the log's end."""
        self.fold()
        for service in services:
            self.log.process_recorder.insert_tracking(Tracking(service, ids(self.log)[-1]))

    def change(self, statement: str, *values: object) -> None:
        """Change rows as the database's owner."""
        assert self.settings.owner_database_url is not None
        with psycopg.connect(self.settings.owner_database_url) as owner:
            assert owner.execute(statement.encode(), values).rowcount != 0

    def rewrite(self, topic: str, field: str, value: str) -> None:
        """Change a field of events."""
        self.change(
            "UPDATE ecolink_events SET state = convert_to(jsonb_set("
            "convert_from(state, 'UTF8')::jsonb, %s, %s::jsonb)::text, 'UTF8') WHERE topic = %s",
            *([field], value, topic),
        )

    def findings(self) -> Findings:
        return audit(self.settings)

    def differences(self) -> list[Difference]:
        return self.findings().differences

    def texts(self, kind: DifferenceKind) -> list[str]:
        """Return the texts of the differences of one kind."""
        return [each.text for each in self.differences() if each.kind is kind]


@pytest.fixture
def audited(settings: Settings, log: EventLog, pool: ConnectionPool[Connection]) -> Audited:
    return Audited(settings, log, pool)


def test_an_untouched_platform_has_no_differences(audited: Audited, history: History) -> None:
    history.run_with_a_crash()
    history.undeploy(history.deploy_checkpoint(10))
    history.pay_by_card()
    with command("request another job"):
        audited.log.commit(JobRequest.ordered(uuid4(), ACCOUNT_ID, CHOICES, ORDER))
    audited.fold()
    before, version = ids(audited.log), history.job.version
    findings = audited.findings()
    assert findings.differences == []
    assert findings.trial_balance_micros == 0
    assert (findings.events, findings.head) == (len(before), before[-1])
    assert (findings.accounts, findings.meters, findings.minutes) == (1, 2, 5)
    tables = [table for projection in PROJECTIONS for table in projection.tables]
    assert [comparison.table for comparison in findings.tables] == tables
    optional = {
        table for one in installed() for each in one.projections for table in one.load(each).tables
    }
    empty = {comparison.table for comparison in findings.tables if not comparison.live.rows}
    unused = {"open_meters", "dataset_tokens", "dataset_refusals", "gpu_claims"}
    assert empty - optional == unused
    assert (ids(audited.log), history.job.version) == (before, version)  # the audit only reads


def test_a_credit_that_rounds_to_zero_has_no_counterpart(audited: Audited, log: EventLog) -> None:
    cheap = History(log, plan=PLAN.model_copy(update={"rate_micros_per_hour": 1}))
    cheap.run_with_a_crash()
    audited.fold()
    assert audited.differences() == []


def test_an_empty_platform_has_no_differences(audited: Audited) -> None:
    assert audited.differences() == []


def test_each_projection_is_compared_at_its_own_position_with_its_lag(
    audited: Audited, history: History
) -> None:
    history.run_until("training")
    audited.fold(ACCOUNTS)
    history.end_segment(1, SegmentEnd.STOPPED, 90)
    audited.fold(BILLING_LEDGER, OPEN_METERS)
    history.top_up(500, "INV-7")
    audited.fold(ACCOUNTS)
    findings = audited.findings()
    lags = {comparison.table: comparison.lag for comparison in findings.tables}
    assert (lags["accounts"], lags["billing_ledger"], findings.differences) == (0, 2, [])


def test_a_ledger_has_no_differences_between_the_events_of_one_save(
    audited: Audited, history: History
) -> None:
    history.run_until("training")
    start = ids(audited.log)[-1]
    history.bill(1, 61)
    history.end_segment(1, SegmentEnd.CRASHED, 100)
    for position in ids(audited.log):
        if position > start:
            audited.fold(BILLING_LEDGER, stop=position)
            assert audited.differences() == [], f"at {position}"


TAMPERING = {
    "a balance": ("accounts", "UPDATE accounts SET balance_micros = balance_micros + 1"),
    "a name": ("base_models", "UPDATE base_models SET architecture = 'other'"),
    "a deleted row": ("models", "DELETE FROM models"),
    "an added row": (
        "api_keys",
        "INSERT INTO api_keys (key_id, account_id, hint, role, scopes, issued_at, "
        "created_by_operator) SELECT gen_random_uuid(), account_id, hint, role, scopes, issued_at, "
        "created_by_operator FROM api_keys",
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
    audited: Audited, history: History, table: str, statement: str
) -> None:
    history.run_with_a_crash()
    audited.fold()
    audited.change(statement)
    assert any(table in text for text in audited.texts(DifferenceKind.TABLE))


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (
            "UPDATE accounts SET balance_micros = balance_micros + 1",
            ("row account_id", "balance_micros is", "1 and replays as"),
        ),
        ("DELETE FROM job_timeline", ("row event_id", "is missing")),
        (
            "INSERT INTO gpu_pools SELECT (jsonb_populate_record(g, jsonb_build_object("
            "'pool_id', gen_random_uuid()))).* FROM gpu_pools AS g LIMIT 1",
            ("row pool_id", "is not in the replay"),
        ),
    ],
)
def test_a_difference_names_the_row_and_its_values(
    audited: Audited, history: History, statement: str, words: tuple[str, ...]
) -> None:
    history.run_until("training")
    history.bill(1, 61)
    audited.fold()
    audited.change(statement)
    (text,) = audited.texts(DifferenceKind.TABLE)
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    "change",
    [
        "amount_micros = amount_micros - 1 WHERE reason = 'credit granted'",
        "credit = 'pocket' WHERE reason = 'lease released'",
    ],
)
def test_a_ledger_that_differs_from_its_account_is_reported(
    audited: Audited, history: History, change: str
) -> None:
    history.run_with_a_crash()
    audited.fold()
    audited.change(f"UPDATE billing_ledger SET {change}")
    assert audited.texts(DifferenceKind.BALANCE)


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
    audited: Audited, history: History, topic: str, field: str, value: str, kind: DifferenceKind
) -> None:
    history.run_until("training")
    history.bill(1, 130)
    audited.rewrite(topic, field, value)
    audited.fold()
    assert audited.texts(kind)


@pytest.mark.parametrize(
    ("topic", "field", "value"),
    [
        ("ToppedUp", "amount_micros", "1"),
        ("PaymentReceived", "reference", '"other"'),
        ("ChargeReversed", "amount_micros", "1"),
        ("LostWorkCredited", "to_seconds", "99"),
    ],
)
def test_two_events_that_no_longer_agree_are_reported(
    audited: Audited, history: History, topic: str, field: str, value: str
) -> None:
    history.run_until("training")
    history.top_up(500, "INV-7")
    history.end_segment(1, SegmentEnd.CRASHED, 200)
    audited.fold()
    assert audited.differences() == []
    audited.rewrite(topic, field, value)
    assert len(audited.texts(DifferenceKind.UNPAIRED)) == 2


def test_a_genuine_snapshot_has_no_differences(audited: Audited) -> None:
    with open_log(audited.settings, takes_snapshots=True) as billing:
        grow(billing, 1001)
    audited.fold()
    findings = audited.findings()
    assert (findings.snapshots, findings.differences) == (1, [])


def test_a_snapshot_of_an_earlier_version_is_counted_as_outdated(audited: Audited) -> None:
    with open_log(audited.settings, takes_snapshots=True) as billing:
        grow_with_an_incomplete_snapshot(billing)
    audited.fold()
    findings = audited.findings()
    assert (findings.snapshots, findings.outdated_snapshots) == (1, 1)
    assert findings.differences == []


def test_a_forged_snapshot_without_a_field_is_not_counted_as_outdated(audited: Audited) -> None:
    with open_log(audited.settings, takes_snapshots=True) as billing:
        grow(billing, 1001)
    audited.fold()
    audited.change(
        "INSERT INTO ecolink_snapshots SELECT originator_id, 1001, topic, convert_to(replace("
        "convert_from(state, 'UTF8'), %s, %s), 'UTF8') FROM ecolink_snapshots",
        *('\\"balance_micros\\":999,', ""),
    )
    findings = audited.findings()
    assert findings.outdated_snapshots == 0
    assert DifferenceKind.SNAPSHOT_FORGED in {each.kind for each in findings.differences}


def test_a_forged_snapshot_is_reported_and_changes_no_balance(audited: Audited) -> None:
    """A superuser inserts a complete snapshot without the secret."""
    with open_log(audited.settings, takes_snapshots=True) as billing:
        grow(billing, 1001)
        account = billing.load(Account, ACCOUNT_ID)
    audited.fold()
    audited.change(
        "INSERT INTO ecolink_snapshots SELECT originator_id, 1001, topic, convert_to(replace("
        "convert_from(state, 'UTF8'), %s, %s), 'UTF8') FROM ecolink_snapshots",
        *('\\"balance_micros\\":999,', '\\"balance_micros\\":1000000000000,'),
    )
    (forged,) = audited.texts(DifferenceKind.SNAPSHOT_FORGED)
    assert str(ACCOUNT_ID) in forged
    (state,) = audited.texts(DifferenceKind.SNAPSHOT_STATE)
    assert "$1,000,000.00" in state
    assert audited.log.load(Account, ACCOUNT_ID) == account
    audited.settings = audited.settings.model_copy(update={"snapshot_secret": None})
    assert audited.texts(DifferenceKind.SNAPSHOT_STATE) == [state]


def test_a_changed_snapshot_of_a_pool_is_reported(audited: Audited) -> None:
    with open_log(audited.settings, takes_snapshots=True) as scheduler, command("fill a pool"):
        pool = GpuPool.open("local", "cpu")
        pool.change_capacity(1)
        for count in (1, *[2] * 1000):
            pool.request(Claim(ACCOUNT_ID, uuid4(), 1, count))
            if (claim := pool.next_fitting()) is not None:
                pool.allocate(claim)
            if len(pool.pending_events) == 400:
                scheduler.commit(pool)
        scheduler.commit(pool)
    audited.fold()
    findings = audited.findings()
    assert (findings.snapshots, findings.differences) == (1, [])
    audited.change(
        "UPDATE ecolink_snapshots SET state = convert_to(replace("
        "convert_from(state, 'UTF8'), %s, %s), 'UTF8')",
        *('\\"held\\":[[', '\\"held\\":[],\\"was_held\\":[['),
    )
    (forged,) = audited.texts(DifferenceKind.SNAPSHOT_FORGED)
    (state,) = audited.texts(DifferenceKind.SNAPSHOT_STATE)
    assert str(pool.id) in forged
    assert "0 and 1 hold GPUs" in state


def test_a_changed_snapshot_of_a_meter_is_reported(audited: Audited) -> None:
    with open_log(audited.settings, takes_snapshots=True) as billing, command("bill"):
        meter = Meter.open(ACCOUNT_ID, uuid4(), 1, 3_600_000)
        meter.extend_lease(60 * 300)
        meter.post_minutes(60 * 300, 60)
        billing.commit(meter)
    audited.fold()
    assert audited.findings().snapshots == 1
    assert audited.texts(DifferenceKind.SNAPSHOT_FORGED) == []
    assert audited.texts(DifferenceKind.SNAPSHOT_STATE) == []
    audited.change(
        "UPDATE ecolink_snapshots SET state = convert_to(replace("
        "convert_from(state, 'UTF8'), %s, %s), 'UTF8')",
        *('\\"billed_seconds\\":18000,', '\\"billed_seconds\\":60,'),
    )
    (forged,) = audited.texts(DifferenceKind.SNAPSHOT_FORGED)
    (state,) = audited.texts(DifferenceKind.SNAPSHOT_STATE)
    assert str(meter.id) in forged
    assert "60 and 18000 s are billed" in state


def test_unreadable_and_unknown_snapshots_are_reported(audited: Audited, history: History) -> None:
    history.run_until("training")
    audited.fold()
    for id, version in ((ACCOUNT_ID, 1), (ACCOUNT_ID, 9999), (JOB_ID, 1)):
        insert = "INSERT INTO ecolink_snapshots VALUES (%s, %s, 'AccountSnapshot', 'x')"
        audited.change(insert, id, version)
    (unreadable,) = audited.texts(DifferenceKind.SNAPSHOT_UNREADABLE)
    assert str(ACCOUNT_ID) in unreadable
    of_account, of_job = sorted(audited.texts(DifferenceKind.SNAPSHOT_AHEAD))
    assert str(ACCOUNT_ID) in of_account
    assert "9999" in of_account
    assert str(JOB_ID) in of_job


def test_positions_beyond_the_log_are_reported(audited: Audited, history: History) -> None:
    history.run_until("training")
    audited.pass_all("billing", "scheduler")
    assert audited.differences() == []
    head = ids(audited.log)[-1]
    audited.log.process_recorder.insert_tracking(Tracking("serving", head + 1))
    audited.change("UPDATE projection_positions SET position = 9999 WHERE name = 'models'")
    models, serving = sorted(audited.texts(DifferenceKind.POSITION_AHEAD))
    assert "projection-models is 9999," in models
    assert f"serving is {head + 1}," in serving


def test_a_position_that_moved_back_is_reported(audited: Audited, history: History) -> None:
    history.open_account(1_000_000)
    with because(Cause("service:billing", "billing:5", NOW)):
        account = history.account
        account.grant_credit(1, "caused by the fifth event")
        audited.log.commit(account, tracking=Tracking("billing", 5))
    audited.fold()
    assert audited.texts(DifferenceKind.POSITION_BEHIND) == []
    audited.change("ALTER TABLE ecolink_tracking DISABLE TRIGGER forward_only")
    audited.change("UPDATE ecolink_tracking SET notification_id = 4 WHERE notification_id = 5")
    (text,) = audited.texts(DifferenceKind.POSITION_BEHIND)
    assert "billing is 4," in text


def test_a_segment_that_billing_skipped_is_reported(audited: Audited, history: History) -> None:
    history.run_until("allocated")
    audited.pass_all("billing", "scheduler")
    (text,) = audited.texts(DifferenceKind.NO_METER)
    assert str(JOB_ID) in text
    history.grant_lease(1)
    audited.pass_all("billing", "scheduler")
    assert audited.differences() == []


def test_a_parked_event_does_not_count_as_skipped(audited: Audited, history: History) -> None:
    history.run_until("allocated")
    audited.pass_all("billing", "scheduler")
    topic = events.SegmentAllocated.TOPIC
    (allocated,) = [each.id for each in notifications(audited.log) if each.topic == topic]
    audited.change(
        "INSERT INTO parked_events VALUES ('billing', %s, %s, %s, 'x')",
        *(allocated, JOB_ID, topic),
    )
    assert audited.differences() == []


def test_a_base_that_serving_skipped_is_reported(audited: Audited, history: History) -> None:
    history.import_base()
    audited.pass_all("serving")
    (text,) = audited.texts(DifferenceKind.NOT_DEPLOYED)
    assert "tiny" in text
    history.deploy_base()
    audited.fold()
    assert audited.differences() == []


def test_a_deleted_base_need_not_be_deployed(audited: Audited, history: History) -> None:
    base = history.import_base()
    with command("delete"):
        base.delete()
        audited.log.commit(base)
    audited.pass_all("serving")
    assert audited.differences() == []


def test_a_deletion_that_datasets_skipped_is_reported(audited: Audited, history: History) -> None:
    history.open_account(1)
    history.prepare_dataset()
    with audited.pool.connection() as connection:
        set_dataset_name(connection, DATASET_ID, "letters")
    with command("delete"):
        dataset = audited.log.load(Dataset, DATASET_ID)
        dataset.delete(())
        audited.log.commit(dataset)
    audited.fold()
    assert audited.differences() == []
    audited.pass_all("datasets")
    (text,) = audited.texts(DifferenceKind.NAME_KEPT)
    assert str(DATASET_ID) in text
    with audited.pool.connection() as connection:
        delete_dataset_name(connection, DATASET_ID)
    assert audited.differences() == []


@pytest.mark.parametrize(
    ("statement", "kind", "shown"),
    [
        ("DELETE FROM segment_evidence", DifferenceKind.NO_EVIDENCE, "120 s"),
        (
            "UPDATE segment_evidence SET elapsed_seconds = 60",
            *(DifferenceKind.NO_EVIDENCE, "60 s"),
        ),
        (
            "UPDATE segment_evidence SET elapsed_seconds = 1e9",
            *(DifferenceKind.TOO_MUCH_EVIDENCE, "1,000,000,000 s"),
        ),
        (
            "UPDATE segment_evidence SET segment = 7",
            *(DifferenceKind.UNKNOWN_SEGMENT, "segment 7"),
        ),
    ],
)
def test_evidence_that_contradicts_the_bill_is_reported(
    audited: Audited, history: History, statement: str, kind: DifferenceKind, shown: str
) -> None:
    history.run_until("training")
    history.bill(1, 130)
    audited.fold()
    assert audited.differences() == []
    audited.change(statement)
    (text,) = audited.texts(kind)
    assert shown in text


def step_measured(step: int, loss: float) -> StepMeasured:
    return StepMeasured(
        **{"account_id": ACCOUNT_ID, "job_id": JOB_ID, "segment": 1, "step": step},
        **{"total_steps": 30, "train_loss": loss, "smoothed_loss": loss, "learning_rate": 0.1},
        **{"tokens": 100, "tokens_per_second": 10.0, "elapsed_seconds": 50.0, "measured_at": NOW},
        peak_memory_bytes=None,
    )


def evaluation_measured(step: int, loss: float) -> EvaluationMeasured:
    return EvaluationMeasured(
        **{"account_id": ACCOUNT_ID, "job_id": JOB_ID, "segment": 1, "step": step},
        **{"eval_loss": loss, "accuracy": 0.5, "examples": 5, "label_tokens": 400},
        **{"seconds": 1.0, "elapsed_seconds": 50.0, "measured_at": NOW},
    )


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        ("UPDATE step_measurements SET train_loss = 0.5", "the train_loss 0.5 at step 10"),
        ("UPDATE evaluation_measurements SET eval_loss = 0.5 WHERE step = 0", "loss 0.5 at step 0"),
        ("UPDATE evaluation_measurements SET eval_loss = 0.5 WHERE step = 10", "0.5 at step 10"),
        ("UPDATE step_measurements SET segment = 7", "segment 7"),
        ("UPDATE evaluation_measurements SET segment = 7 WHERE step = 0", "segment 7"),
    ],
)
def test_a_measurement_that_contradicts_the_log_is_reported(
    audited: Audited, history: History, statement: str, shown: str
) -> None:
    history.run_until("training")
    history.save_checkpoint(1, 10, 50, train_loss=1.5, eval_loss=1.25)
    history.complete(1)  # with the loss 3.0 of the base model
    with audited.pool.connection() as connection:
        add_step(connection, step_measured(10, 1.5))
        add_evaluation(connection, evaluation_measured(BASE_STEP, 3.0))
        add_evaluation(connection, evaluation_measured(10, 1.25))
    audited.fold()
    assert audited.differences() == []
    audited.change(statement)
    (text,) = audited.texts(DifferenceKind.MEASUREMENT)
    assert shown in text


@pytest.mark.parametrize(
    ("column", "value"),
    [("topic", "os:system"), ("topic", ""), ("state", b"no json")],
)
def test_an_event_that_nobody_can_replay_is_a_difference(
    audited: Audited, history: History, column: str, value: object
) -> None:
    history.run_until("training")
    audited.fold()
    audited.change(f"UPDATE ecolink_events SET {column} = %s WHERE notification_id = 5", value)
    (difference,) = audited.differences()
    assert difference.kind is DifferenceKind.NOT_REPLAYED


def test_the_first_of_two_unreplayable_events_is_named(
    audited: Audited, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infrastructure.postgres.event_batches.BATCH_EVENTS", 1)
    history.run_with_a_crash()
    audited.fold()
    topic = Dataset.DatasetValidated.TOPIC
    (first,) = [each.id for each in notifications(audited.log) if each.topic == topic]
    before, _, after = ids(audited.log)[ids(audited.log).index(first) - 1 :][:3]
    audited.change(  # to a second base model with the same name
        "UPDATE ecolink_events SET originator_id = gen_random_uuid(), originator_version = 1, "
        "topic = imported.topic, state = imported.state FROM (SELECT topic, state "
        "FROM ecolink_events WHERE topic = 'BaseModelImported') AS imported "
        "WHERE notification_id = %s",
        first,
    )
    audited.change("UPDATE ecolink_events SET topic = '' WHERE notification_id = %s", after)
    (difference,) = audited.differences()
    assert difference.kind is DifferenceKind.NOT_REPLAYED
    assert f"after event {before}," in difference.text
    assert "base_models_pkey" in difference.text


def test_pauses_at_spending_limits_have_no_differences(audited: Audited, log: EventLog) -> None:
    limited(log)
    audited.pass_all("billing", "scheduler")
    findings = audited.findings()
    assert findings.differences == []
    assert findings.minutes > 0


def test_covered_time_has_no_differences(audited: Audited, history: History) -> None:
    history.run_covered()
    audited.fold()
    findings = audited.findings()
    assert (findings.differences, findings.trial_balance_micros) == ([], 0)


@pytest.mark.parametrize(
    ("topic", "field", "value", "named"),
    [
        ("MeterOpened", "guarantee_micros", "200000", "of which the guarantee leaves 200,000"),
        ("MinuteMetered", "covered_micros", "1", "and covered 6"),
        ("JobApproved", "guarantee", '{"micros": 155999, "seconds": 468}', "its guarantee is"),
    ],
)
def test_a_changed_guarantee_is_found(
    audited: Audited, history: History, topic: str, field: str, value: str, named: str
) -> None:
    history.run_covered()
    audited.fold()
    audited.rewrite(topic, field, value)
    (text, *_) = audited.texts(DifferenceKind.METER_CHARGE)
    assert named in text
