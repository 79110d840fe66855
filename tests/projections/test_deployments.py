"""Deployments: one row for each name, visible to the accounts that may use it."""

from __future__ import annotations

from uuid import uuid4

import pytest

from domain.use_cases.deployments import Deploying
from projections import DEPLOYMENTS
from projections.deployments import adapter_names_on, deployment_named, deployments_of, statuses
from tests.builders.commands import NOW, command
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.builders.history import History
from tests.projections.conftest import Fold


@pytest.fixture
def checkpoint(history: History) -> str:
    """Return the name of a deployed checkpoint."""
    history.import_base()
    history.deploy_base()
    history.run_until("training")
    history.save_checkpoint(1, 10, 40)
    return history.deploy_checkpoint(10)


def test_other_accounts_see_only_base_models_which_come_first(checkpoint: str, fold: Fold) -> None:
    connection, other = fold(DEPLOYMENTS), uuid4()
    base, own = deployments_of(connection, ACCOUNT_ID)
    assert (base["model"], base["status"], base["job_id"]) == ("tiny", "active", None)
    assert (own["model"], own["status"]) == (checkpoint, "deploying")
    assert (own["base_model"], own["job_id"], own["step"]) == ("tiny", JOB_ID, 10)
    assert own["requested_at"] == own["changed_at"] == NOW
    assert statuses(connection, other) == {"tiny": "active"}
    assert deployment_named(connection, other, checkpoint) is None
    assert deployment_named(connection, ACCOUNT_ID, checkpoint) == own
    assert deployment_named(connection, other, "tiny") == base


def test_a_failure_is_shown_until_the_next_request(
    history: History, checkpoint: str, fold: Fold
) -> None:
    def shown() -> tuple[object, ...]:
        row = deployment_named(fold(DEPLOYMENTS), ACCOUNT_ID, checkpoint)
        assert row is not None
        return row["status"], row["failure_code"], row["failure_message"]

    history.fail_deployment(checkpoint)
    assert shown() == ("failed", "no_room", "It does not fit.")
    assert adapter_names_on(fold(), "tiny") == []
    with command("again"):
        Deploying(history.log).redeploy(ACCOUNT_ID, checkpoint)
    assert shown() == ("deploying", None, None)
    assert adapter_names_on(fold(), "tiny") == [checkpoint]
    history.undeploy(checkpoint)
    assert shown() == ("undeployed", None, None)
