"""The erasure of an account ends everything that the account has."""

from __future__ import annotations

import pytest

from domain.access.api_key import ApiKey
from domain.billing.account import Account
from domain.billing.auto_top_up import SavedCard
from domain.billing.suspension import SuspensionReason
from domain.core.errors import WrongState
from domain.core.event_log import EventLog
from domain.core.identity import deployment_id
from domain.datasets.dataset import Dataset, DatasetStatus
from domain.deployments.deployment import Deployment, DeploymentStatus
from domain.jobs.job import JobStatus, SegmentEnd
from domain.jobs.job_request import JobRequest, RequestStatus
from domain.use_cases.auto_top_ups import AutoToppingUp
from domain.use_cases.deployments import Deploying
from domain.use_cases.erasing import Erasing, Holdings, kept_card
from tests.builders.examples import ACCOUNT_ID, DATASET_ID, JOB_ID, account
from tests.builders.history import History
from tests.builders.scenario import fact, when
from tests.domain.jobs.test_job_request import CHOICES, ORDER


@pytest.fixture
def log() -> EventLog:
    """A log in memory."""
    return EventLog()


@pytest.fixture
def history(log: EventLog) -> History:
    """An account with a key, a dataset, a deployed model, a paused job and a requested one."""
    told = History(log)
    told.import_base()
    told.deploy_base()
    told.prepare_dataset()
    told.run_until("training")
    told.complete(1)
    told.end_segment(1, SegmentEnd.COMPLETED)
    Deploying(log).deploy_model(ACCOUNT_ID, JOB_ID)
    log.commit(JobRequest.ordered(JOB_ID, ACCOUNT_ID, CHOICES, ORDER))
    return told


@pytest.fixture
def paused(history: History) -> History:
    """A paused job of the account."""
    told = history.another_job()
    told.approve_job()
    told.pause()
    return told


@pytest.fixture
def held(history: History, paused: History) -> Holdings:
    """Everything that the account has."""
    model = history.job.model_name
    return Holdings(
        keys=(history.issue_key().id,),
        datasets=(DATASET_ID,),
        jobs=(history.job_id, paused.job_id),
        requests=(JobRequest.ordered(JOB_ID, ACCOUNT_ID, CHOICES, ORDER).id,),
        deployments=(deployment_id(ACCOUNT_ID, model),),
    )


def test_an_erasure_ends_everything_once(
    log: EventLog, history: History, paused: History, held: Holdings
) -> None:
    cards = AutoToppingUp(log)
    cards.save_card(ACCOUNT_ID, SavedCard(customer="cus_1", payment_method="pm_1"))
    history.suspend()
    removed: list[str] = []
    assert Erasing(log, removed.append).erase(ACCOUNT_ID, held).erased
    saved = cards.find(ACCOUNT_ID)
    assert saved is not None
    assert saved.card is None
    assert removed == ["cus_1"]
    assert kept_card(log, ACCOUNT_ID) == ""
    assert log.load(ApiKey, held.keys[0]).revoked
    assert log.load(Dataset, DATASET_ID).status is DatasetStatus.DELETED
    assert log.load(JobRequest, held.requests[0]).status is RequestStatus.CANCELLED
    assert log.load(Deployment, held.deployments[0]).status is DeploymentStatus.UNDEPLOYED
    assert history.job.model_deleted
    assert paused.job.status is JobStatus.CANCELLED
    head = log.recorder.max_notification_id()
    Erasing(log, removed.append).erase(ACCOUNT_ID, held)
    assert log.recorder.max_notification_id() == head


def test_an_erasure_continues_after_a_crash(
    log: EventLog, history: History, held: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    history.suspend()
    with monkeypatch.context() as crash:
        crash.setattr(Dataset, "delete", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Erasing(log).erase(ACCOUNT_ID, held)
    assert not history.account.erased
    assert Erasing(log).erase(ACCOUNT_ID, held).erased


def test_an_account_with_a_running_job_is_not_changed(
    log: EventLog, history: History, held: Holdings
) -> None:
    running = history.another_job()
    running.approve_job()
    running.allocate_segment(1)
    history.suspend()
    head = log.recorder.max_notification_id()
    with pytest.raises(WrongState, match="save a checkpoint and pause") as refusal:
        Erasing(log).erase(ACCOUNT_ID, Holdings(held.keys, jobs=(*held.jobs, running.job_id)))
    assert refusal.value.figures == {"jobs": [str(running.job_id)]}
    assert log.recorder.max_notification_id() == head


def test_an_active_account_is_not_changed(log: EventLog, history: History, held: Holdings) -> None:
    head = log.recorder.max_notification_id()
    with pytest.raises(WrongState, match="Suspend it first"):
        Erasing(log).erase(ACCOUNT_ID, held)
    assert log.recorder.max_notification_id() == head


def test_the_suspension_of_an_erased_account_is_permanent() -> None:
    given = account(10_000)
    given.suspend(SuspensionReason.REQUEST)
    assert when(given, Account.erase, Account.erase) == [fact("AccountErased")]
    for step in (Account.reinstate, lambda each: each.suspend(SuspensionReason.OTHER)):
        with pytest.raises(WrongState, match="permanent"):
            step(given)
    snapshot = Account.Snapshot.model_validate_json(Account.Snapshot.take(given).model_dump_json())
    assert snapshot.mutate(None).erased
