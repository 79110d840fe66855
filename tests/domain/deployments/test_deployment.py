from __future__ import annotations

from collections.abc import Callable

import pytest

from domain.core.identity import deployment_id
from domain.deployments.deployment import Deployment, Weights
from tests.builders.examples import ACCOUNT_ID, PLAN
from tests.builders.scenario import fact, when

BASE = Weights(
    base_model="tiny",
    base_ref=PLAN.base_ref,
    base_manifest_sha256=PLAN.base_manifest_sha256,
    adapter=None,
)
REVISED = BASE.model_copy(update={"base_ref": "models/tiny/2", "base_manifest_sha256": "e" * 64})
Step = Callable[[Deployment], None]


def fails(given: Deployment) -> None:
    given.fail("out_of_memory", "It does not fit.")


def renews(weights: Weights = BASE) -> Step:
    return lambda given: given.renew(weights)


ACTIVATED = fact("DeploymentActivated")
FAILED = fact("DeploymentFailed", code="out_of_memory", message="It does not fit.")
UNDEPLOYED = fact("Undeployed")


def test_a_requested_name_is_deploying() -> None:
    given = Deployment.request(ACCOUNT_ID, "tiny", BASE)
    assert (given.id, given.status) == (deployment_id(ACCOUNT_ID, "tiny"), "deploying")
    assert given.collect_events() == [fact("DeploymentRequested", model="tiny", weights=BASE)]


@pytest.mark.parametrize(
    ("steps", "then", "status"),
    [
        ([Deployment.activate] * 2, [ACTIVATED], "active"),
        ([renews()], [], "deploying"),
        ([fails, fails, Deployment.activate], [FAILED], "failed"),
        ([Deployment.undeploy] * 2 + [Deployment.activate, fails], [UNDEPLOYED], "undeployed"),
        ([Deployment.activate, Deployment.undeploy], [ACTIVATED, UNDEPLOYED], "undeployed"),
        ([Deployment.activate, fails], [ACTIVATED, FAILED], "failed"),
        ([fails, Deployment.undeploy], [FAILED, UNDEPLOYED], "undeployed"),
        ([fails, renews(), renews()], [FAILED, fact("DeploymentRenewed")], "deploying"),
        (
            [Deployment.undeploy, renews(), renews()],
            [UNDEPLOYED, fact("DeploymentRenewed", weights=BASE)],
            "deploying",
        ),
        (
            [Deployment.activate, renews(), renews(REVISED)],
            [ACTIVATED, fact("DeploymentRenewed", weights=REVISED)],
            "deploying",
        ),
    ],
)
def test_a_deployment_follows_its_commands(
    steps: list[Step], then: list[fact], status: str
) -> None:
    given = Deployment.request(ACCOUNT_ID, "tiny", BASE)
    assert when(given, *steps) == then
    assert given.status == status
