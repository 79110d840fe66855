"""Deploying: what bases, models and checkpoints must be, so that they can be served."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import pytest

from domain.core.aggregate import Cause, because
from domain.core.errors import NotFound, WrongState
from domain.core.event_log import EventLog
from domain.core.identity import PLATFORM_ACCOUNT_ID, deployment_id
from domain.deployments.deployment import Deployment
from domain.jobs.job import SegmentEnd
from domain.use_cases.deployments import Deploying, base_deployment, deployed_refs, why_not_served
from tests.builders.commands import NOW, command
from tests.builders.examples import ACCOUNT_ID, JOB_ID, PLAN
from tests.builders.history import RETENTION, History

MODEL = "ft:tiny:222222222222"
SHA = PLAN.base_manifest_sha256


@pytest.fixture
def log() -> EventLog:
    """A log in memory."""
    return EventLog()


@pytest.fixture
def history(log: EventLog) -> History:
    """A base with an active deployment, and a job that trains on it."""
    told = History(log)
    told.import_base()
    told.deploy_base()
    told.run_until("training")
    return told


def adapters(count: int) -> Callable[[], int]:
    return lambda: count


def found(log: EventLog, model: str = MODEL) -> Deployment:
    return log.load(Deployment, deployment_id(ACCOUNT_ID, model))


def test_a_base_is_the_platform_s_and_must_be_imported(log: EventLog) -> None:
    deploying = Deploying(log)
    with pytest.raises(NotFound):
        deploying.deploy_base("tiny")
    History(log).import_base()
    deployed = deploying.deploy_base("tiny")
    assert (deployed.account_id, deployed.model) == (PLATFORM_ACCOUNT_ID, "tiny")
    assert deployed.weights.adapter is None


def test_why_a_base_is_not_served_follows_its_deployment(log: EventLog) -> None:
    history = History(log)
    base = history.import_base()
    reasons = [why_not_served(log, "tiny", SHA)]
    deployment = base_deployment(log, base)
    log.commit(deployment)
    reasons.append(why_not_served(log, "tiny", SHA))
    deployment.activate()
    log.commit(deployment)
    assert why_not_served(log, "tiny", SHA) is None
    reasons.append(why_not_served(log, "tiny", "f" * 64))
    deployment.fail("out_of_memory", "It does not fit.")
    log.commit(deployment)
    reasons.append(why_not_served(log, "tiny", SHA))
    assert len({each for each in reasons if each}) == 4


def test_a_base_that_serves_adapters_stays(history: History, log: EventLog) -> None:
    deploying = Deploying(log)
    with pytest.raises(WrongState) as refused:
        deploying.undeploy_base("tiny", adapters(2))
    assert refused.value.figures == {"adapters": 2}
    for _ in range(2):
        undeployed = deploying.undeploy_base("tiny", adapters(0))
    assert undeployed.status == "undeployed"
    assert deploying.undeploy_base("tiny", adapters(1)).version == undeployed.version


def test_a_registered_model_is_deployed_again_and_again(history: History, log: EventLog) -> None:
    deploying = Deploying(log)
    with pytest.raises(WrongState):
        deploying.deploy_model(ACCOUNT_ID, JOB_ID)
    history.complete(1)
    for _ in range(2):
        deployed = deploying.deploy_model(ACCOUNT_ID, JOB_ID)
    assert (deployed.model, deployed.version, deployed.status) == (MODEL, 1, "deploying")
    adapter = deployed.weights.adapter
    assert adapter is not None
    assert (adapter.ref, adapter.manifest_sha256) == ("jobs/a/adapter", "a" * 64)
    deploying.undeploy(ACCOUNT_ID, MODEL)
    assert deploying.redeploy(ACCOUNT_ID, MODEL).status == "deploying"
    assert found(log).version == 3


def test_an_adapter_needs_the_very_base_that_it_was_trained_on(
    history: History, log: EventLog
) -> None:
    deploying = Deploying(log)
    history.complete(1)
    deploying.undeploy_base("tiny", adapters(0))
    with pytest.raises(WrongState):
        deploying.deploy_model(ACCOUNT_ID, JOB_ID)


def test_other_accounts_find_nothing(history: History, log: EventLog) -> None:
    deploying, other = Deploying(log), uuid4()
    history.save_checkpoint(1, 10, 40)
    deploying.deploy_checkpoint(ACCOUNT_ID, JOB_ID, 10)
    for attempt in (
        lambda: deploying.deploy_model(other, JOB_ID),
        lambda: deploying.deploy_checkpoint(other, JOB_ID, 10),
        lambda: deploying.undeploy(other, f"{MODEL}:ckpt-step-10"),
        lambda: deploying.redeploy(other, f"{MODEL}:ckpt-step-10"),
    ):
        with pytest.raises(NotFound):
            attempt()


def test_a_checkpoint_is_deployed_while_its_job_trains(history: History, log: EventLog) -> None:
    deploying = Deploying(log)
    history.save_checkpoint(1, 10, 40)
    with pytest.raises(NotFound):
        deploying.deploy_checkpoint(ACCOUNT_ID, JOB_ID, 20)
    deployed = deploying.deploy_checkpoint(ACCOUNT_ID, JOB_ID, 10)
    assert deployed.model == f"{MODEL}:ckpt-step-10"
    assert deployed.weights.adapter is not None
    assert (deployed.weights.adapter.ref, deployed.weights.adapter.step) == ("checkpoints/1/10", 10)
    deploying.undeploy(ACCOUNT_ID, deployed.model)
    assert deploying.redeploy(ACCOUNT_ID, deployed.model).status == "deploying"


def test_a_deployed_checkpoint_is_kept_until_it_is_undeployed(
    history: History, log: EventLog
) -> None:
    deploying = Deploying(log)
    history.save_checkpoint(1, 10, 40)
    deploying.deploy_checkpoint(ACCOUNT_ID, JOB_ID, 10)
    for step in (20, 30):
        history.save_checkpoint(1, step, 40 + step)
    assert deployed_refs(log, history.job) == {"checkpoints/1/10"}
    history.prune_checkpoints(1)
    assert [each.step for each in history.job.checkpoints] == [10, 20, 30]
    with command("it cannot be served"):
        failed = log.load(Deployment, deployment_id(ACCOUNT_ID, f"{MODEL}:ckpt-step-10"))
        failed.fail("load_failed", "The weights could not be loaded.")
        log.commit(failed)
    assert deployed_refs(log, history.job) == {"checkpoints/1/10"}, "it may be deployed again"
    deploying.undeploy(ACCOUNT_ID, f"{MODEL}:ckpt-step-10")
    history.prune_checkpoints(2)
    assert [each.step for each in history.job.checkpoints] == [20, 30]


def test_what_a_cancelled_job_saved_is_deployed_within_its_time(
    history: History, log: EventLog
) -> None:
    deploying = Deploying(log)
    history.save_checkpoint(1, 10, 40)
    history.cancel()
    history.end_segment(1, SegmentEnd.STOPPED, 60)
    deploying.deploy_checkpoint(ACCOUNT_ID, JOB_ID, 10)
    with because(Cause("account:test", "later", NOW + RETENTION)), pytest.raises(WrongState):
        deploying.deploy_checkpoint(ACCOUNT_ID, JOB_ID, 10)
    history.promote()
    with because(Cause("account:test", "later", NOW + RETENTION)):
        assert deploying.deploy_model(ACCOUNT_ID, JOB_ID).model == MODEL


def test_a_deleted_model_answers_no_more_and_nothing_of_its_job_does(
    history: History, log: EventLog
) -> None:
    deploying = Deploying(log)
    history.save_checkpoint(1, 10, 40)
    checkpoint = deploying.deploy_checkpoint(ACCOUNT_ID, JOB_ID, 10)
    history.complete(1)
    deploying.deploy_model(ACCOUNT_ID, JOB_ID)
    with pytest.raises(NotFound):
        deploying.delete_model(uuid4(), JOB_ID)
    for _ in range(2):
        deploying.delete_model(ACCOUNT_ID, JOB_ID)
    assert found(log).status == found(log, checkpoint.model).status == "undeployed"
    assert (history.job.model, history.job.checkpoints) == (None, ())
    with pytest.raises(WrongState):
        deploying.redeploy(ACCOUNT_ID, MODEL)
