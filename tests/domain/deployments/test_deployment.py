"""Deployment: what is wanted, what is proven, and what has ended."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from domain.core.identity import PLATFORM_ACCOUNT_ID, deployment_id
from domain.deployments.deployment import Deployment, DeploymentStatus, Weights
from tests.builders.examples import ACCOUNT_ID, PLAN, happened

BASE = Weights(
    base_model="tiny",
    base_ref=PLAN.base_ref,
    base_manifest_sha256=PLAN.base_manifest_sha256,
    adapter=None,
)
REVISED = BASE.model_copy(update={"base_ref": "models/tiny/2", "base_manifest_sha256": "e" * 64})


def base_deployment() -> Deployment:
    given = Deployment.request(PLATFORM_ACCOUNT_ID, "tiny", BASE)
    given.collect_events()
    return given


def given_active() -> Deployment:
    given = base_deployment()
    given.activate()
    given.collect_events()
    return given


def test_a_name_that_is_asked_for_becomes_active_once() -> None:
    given = Deployment.request(ACCOUNT_ID, "tiny", BASE)
    assert happened(given) == ["DeploymentRequested"]
    assert (given.id, given.status) == (deployment_id(ACCOUNT_ID, "tiny"), "deploying")
    for _ in range(2):
        given.activate()
    assert happened(given) == ["DeploymentActivated"]
    assert given.status is DeploymentStatus.ACTIVE


def _undeploy(given: Deployment) -> None:
    given.undeploy()


def _fail(given: Deployment) -> None:
    given.fail("out_of_memory", "It does not fit.")


@pytest.mark.parametrize("end", [_undeploy, _fail])
@pytest.mark.parametrize("make", [base_deployment, given_active])
def test_what_ended_is_renewed_and_was_told_once(
    make: Callable[[], Deployment], end: Callable[[Deployment], None]
) -> None:
    given = make()
    end(given)
    end(given)
    assert len(happened(given)) == 1
    given.activate()  # the answer to what was wanted before
    assert happened(given) == []
    given.renew(BASE)
    given.renew(BASE)
    assert happened(given) == ["DeploymentRenewed"]
    assert given.status is DeploymentStatus.DEPLOYING


def test_what_failed_can_be_undeployed_and_what_is_undeployed_does_not_fail() -> None:
    given = base_deployment()
    _fail(given)
    _undeploy(given)
    _fail(given)
    assert happened(given) == ["DeploymentFailed", "Undeployed"]


def test_the_same_weights_change_nothing_and_others_are_proven_anew() -> None:
    given = given_active()
    given.renew(BASE)
    assert happened(given) == []
    given.renew(REVISED)
    assert happened(given) == ["DeploymentRenewed"]
    assert (given.weights, given.status) == (REVISED, "deploying")
