"""Suspended accounts: what operators may do, and what account holders may no longer do."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest

from domain.access.role import Role
from domain.billing.account import Account
from domain.billing.payment import Receipt
from domain.billing.suspension import SuspensionReason
from domain.core.errors import Suspended, WrongState
from domain.core.event_log import EventLog
from domain.jobs.job import SegmentEnd
from domain.use_cases.accounts import EcoLink
from domain.use_cases.deployments import Deploying
from domain.use_cases.jobs import Launching
from domain.use_cases.quoting import Quoting
from domain.use_cases.spending_limits import SpendingLimits
from tests.builders.examples import ACCOUNT_ID, JOB_ID, account
from tests.builders.history import RETENTION, History
from tests.builders.scenario import AccountStep, fact, when
from tests.domain.jobs.test_job_request import CHOICES, ORDER

ABUSE, PAYMENT = SuspensionReason.ABUSE, SuspensionReason.PAYMENT


def suspends(reason: SuspensionReason = ABUSE) -> AccountStep:
    return lambda given: given.suspend(reason)


SUSPENDED = fact("AccountSuspended", reason=ABUSE)
REINSTATED = fact("AccountReinstated")


@pytest.mark.parametrize(
    ("steps", "events"),
    [
        pytest.param([suspends()], [SUSPENDED], id="suspended"),
        pytest.param([suspends(), suspends()], [SUSPENDED], id="suspended again"),
        pytest.param(
            [suspends(), suspends(PAYMENT)],
            [SUSPENDED, fact("AccountSuspended", reason=PAYMENT)],
            id="another reason",
        ),
        pytest.param([Account.reinstate], [], id="never suspended"),
        pytest.param(
            [suspends(), Account.reinstate, Account.reinstate],
            [SUSPENDED, REINSTATED],
            id="reinstated",
        ),
        pytest.param(
            [suspends(), Account.reinstate, suspends()],
            [SUSPENDED, REINSTATED, SUSPENDED],
            id="suspended after a reinstatement",
        ),
    ],
)
def test_an_account_is_suspended_and_reinstated_once(
    steps: list[AccountStep], events: list[fact]
) -> None:
    assert when(account(), *steps) == events


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.AUDITOR])
def test_only_an_owner_is_suspended(role: Role) -> None:
    given = Account.open(ACCOUNT_ID, role, "UTC")
    with pytest.raises(WrongState, match="Revoke its keys"):
        given.suspend(ABUSE)


def test_a_suspension_leaves_the_money_alone_and_grants_no_lease() -> None:
    given = account(10_000)
    given.settle(captured_micros=0, reserved_micros=4_000)
    given.suspend(ABUSE)
    assert (given.balance_micros, given.reserved_micros) == (10_000, 4_000)
    assert given.leasable_micros == 0
    given.reinstate()
    assert given.leasable_micros == 6_000


def test_a_snapshot_contains_the_suspension() -> None:
    given = account(10_000)
    given.suspend(PAYMENT)
    snapshot = Account.Snapshot.model_validate_json(Account.Snapshot.take(given).model_dump_json())
    assert snapshot.mutate(None).suspension is PAYMENT


@pytest.fixture
def history(log: EventLog) -> History:
    """An account with a dataset, a registered model and a served base model."""
    told = History(log)
    told.import_base()
    told.deploy_base()
    told.prepare_dataset()
    told.run_until("training")
    told.complete(1)
    told.end_segment(1, SegmentEnd.COMPLETED)
    return told


@pytest.fixture
def log() -> EventLog:
    """A log in memory."""
    return EventLog()


@pytest.fixture
def paused(history: History) -> History:
    """A paused job of the same account."""
    told = history.another_job()
    told.approve_job()
    told.pause()
    return told


def launching(log: EventLog) -> Launching:
    def no_calibration(*_: object) -> None:
        raise AssertionError("no quote is needed")

    quoting = Quoting(log, no_calibration)  # type: ignore[arg-type]
    return Launching(log, quoting, SpendingLimits(log, 60), RETENTION)


Forbidden = Callable[[EventLog, History], object]

FORBIDDEN: dict[str, Forbidden] = {
    "approval": lambda log, _: launching(log).approve(
        ACCOUNT_ID, "key", CHOICES, wait=True, loads=list
    ),
    "request": lambda log, _: launching(log).request(ACCOUNT_ID, "key", CHOICES, ORDER),
    "resume": lambda log, paused: launching(log).resume(
        ACCOUNT_ID, paused.job_id, wait=True, loads=list
    ),
    "deployment of a model": lambda log, _: Deploying(log).deploy_model(ACCOUNT_ID, JOB_ID),
    "deployment of a checkpoint": lambda log, _: Deploying(log).deploy_checkpoint(
        ACCOUNT_ID, JOB_ID, 30
    ),
    "upload": lambda log, _: EcoLink(log).upload_dataset(
        ACCOUNT_ID, UUID(int=7), "uploads/b", "b" * 64, 10
    ),
    "key": lambda log, _: EcoLink(log).issue_key(ACCOUNT_ID),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_suspended_account_can_neither_train_nor_deploy_nor_upload_nor_create_keys(
    name: str, log: EventLog, paused: History
) -> None:
    paused.suspend(PAYMENT)
    before = log.recorder.max_notification_id()
    with pytest.raises(Suspended, match="A payment failed or is disputed") as refusal:
        FORBIDDEN[name](log, paused)
    assert refusal.value.figures == {"reason": "payment"}
    assert log.recorder.max_notification_id() == before


def test_an_operator_changes_the_money_and_keys_of_a_suspended_account(
    log: EventLog, history: History
) -> None:
    key = history.issue_key()
    history.suspend()
    ecolink = EcoLink(log)
    ecolink.grant_credit(ACCOUNT_ID, 1_000, "apology")
    receipt = Receipt(provider="manual", reference="transfer 7", amount_micros=2_000)
    before = history.account.balance_micros
    assert ecolink.top_up(ACCOUNT_ID, receipt).balance_micros == before + 2_000
    assert ecolink.revoke_key(ACCOUNT_ID, key.id).revoked


def test_a_reinstated_account_creates_keys_again(log: EventLog, history: History) -> None:
    ecolink = EcoLink(log)
    ecolink.suspend(ACCOUNT_ID, ABUSE)
    ecolink.reinstate(ACCOUNT_ID)
    key, _ = ecolink.issue_key(ACCOUNT_ID)
    assert not key.revoked
