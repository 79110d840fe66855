"""Deployments: one row for each name, at its present state, for those who may use it."""

from __future__ import annotations

from uuid import uuid4

from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from domain.use_cases.deployments import Deploying
from infrastructure.store import Connection
from projections import DEPLOYMENTS
from projections.deployments import adapters_on, deployment_named, deployments_of, statuses
from tests.builders.commands import NOW, command
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.builders.history import History
from tests.projections.conftest import Fold

CHECKPOINT = "ft:tiny:222222222222:ckpt-step-10"


def given_a_checkpoint(history: History) -> None:
    history.import_base()
    history.deploy_base()
    history.run_until("training")
    history.save_checkpoint(1, 10, 40)
    assert history.deploy_checkpoint(10) == CHECKPOINT


def test_bases_come_first_and_others_see_nothing_but_them(
    pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    given_a_checkpoint(history)
    fold(DEPLOYMENTS)
    with pool.connection() as connection:
        base, own = deployments_of(connection, ACCOUNT_ID)
        assert (base["model"], base["status"], base["job_id"]) == ("tiny", "active", None)
        assert (own["model"], own["status"]) == (CHECKPOINT, "deploying")
        assert (own["base_model"], own["job_id"], own["step"]) == ("tiny", JOB_ID, 10)
        assert own["requested_at"] == own["changed_at"] == NOW
        stranger = uuid4()
        assert statuses(connection, stranger) == {"tiny": "active"}
        assert deployment_named(connection, stranger, CHECKPOINT) is None
        assert deployment_named(connection, ACCOUNT_ID, CHECKPOINT) == own
        assert deployment_named(connection, stranger, "tiny") == base


def test_a_failure_is_told_until_it_is_asked_for_again(
    log: EventLog, pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    given_a_checkpoint(history)
    history.fail_deployment(CHECKPOINT)
    fold(DEPLOYMENTS)
    with pool.connection() as connection:
        failed = deployment_named(connection, ACCOUNT_ID, CHECKPOINT)
        assert failed is not None
        assert (failed["failure_code"], failed["failure_message"]) == (
            "no_room",
            "It does not fit.",
        )
        assert adapters_on(connection, "tiny") == 0
    with command("again"):
        Deploying(log).redeploy(ACCOUNT_ID, CHECKPOINT)
    fold(DEPLOYMENTS)
    with pool.connection() as connection:
        renewed = deployment_named(connection, ACCOUNT_ID, CHECKPOINT)
        assert renewed is not None
        assert (renewed["status"], renewed["failure_code"]) == ("deploying", None)
        assert adapters_on(connection, "tiny") == 1
    history.undeploy(CHECKPOINT)
    fold(DEPLOYMENTS)
    with pool.connection() as connection:
        assert statuses(connection, ACCOUNT_ID)[CHECKPOINT] == "undeployed"
