"""Deployments on the command line."""

from __future__ import annotations

import pytest

from domain.core.aggregate import because
from domain.core.identity import deployment_id
from domain.deployments.deployment import Deployment
from gateway.cli import following
from tests.builders.examples import saved_checkpoint
from tests.builders.platform import BASE_MODEL, Person, Platform
from tests.gateway.cli.conftest import CommandLine, Served
from tests.gateway.cli.test_watching import act, meanwhile, register, train


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "POLL_SECONDS", 0.05)


@pytest.fixture
def person(platform: Platform) -> Person:
    platform.base_model()
    return platform.person(dollars=10)


@pytest.fixture
def me(served: Served, person: Person) -> CommandLine:
    return served.as_person(person)


@pytest.fixture
def job(me: CommandLine, platform: Platform, person: Person) -> str:
    """A job with a registered model and a checkpoint."""
    dataset = str(platform.dataset(person))
    platform.project()
    name = me.read("jobs", "launch", "--dataset", dataset, "--base-model", BASE_MODEL)["id"]
    train(platform, person, name, 3.0)
    act(
        platform,
        name,
        lambda job: job.save_checkpoint(saved_checkpoint(1, 10, 2.0, 5, "stored", "c" * 64, 9)),
    )
    act(platform, name, register)
    return name


def test_a_model_is_deployed_followed_until_it_answers_and_undeployed(
    me: CommandLine, platform: Platform, person: Person, job: str
) -> None:
    model = me.read("jobs", "show", job)["model"]
    deployed = deployment_id(person.account_id, model)
    assert me.read("jobs", "deploy", job, "--no-follow")["status"] == "deploying"

    def serve() -> None:
        platform.activate(platform.log.load(Deployment, deployed))
        platform.project()

    serving = meanwhile(serve)
    told = me.run("jobs", "deploy", job)
    serving.join()
    assert model in told
    assert "active" in told
    assert model in me.run("models", "deployments")
    assert "active" in me.run("models", "list")
    assert me.read("models", "undeploy", model)["status"] == "undeployed"
    platform.project()
    requested, activated, undeployed = me.run("jobs", "events", job).splitlines()[-3:]
    for topic, line in (
        ("DeploymentRequested", requested),
        ("DeploymentActivated", activated),
        ("Undeployed", undeployed),
    ):
        assert topic in line
        assert model in line
    assert me.refused("models", "deploy", "ft:tiny:none", code=4)


def test_a_failed_checkpoint_deployment_prints_the_reason(
    me: CommandLine, platform: Platform, person: Person, job: str
) -> None:
    name = me.read("jobs", "deploy", job, "--step", "10", "--no-follow")["model"]
    with because(platform.cause):
        deployment = platform.log.load(Deployment, deployment_id(person.account_id, name))
        deployment.fail("out_of_memory", "It does not fit.")
        platform.log.commit(deployment)
    platform.project()
    failed = me.read("models", "deployments")["data"][-1]
    assert failed["failure"]["message"] == "It does not fit."
