"""Deployments on the command line."""

from __future__ import annotations

import pytest

from gateway.cli import following
from tests.builders.platform import Platform
from tests.builders.platform_job import PlatformJob
from tests.gateway.cli.conftest import Owner, meanwhile


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "POLL_SECONDS", 0.05)


@pytest.mark.full
def test_a_deployment_is_followed_until_it_answers(
    me: Owner, platform: Platform, job: PlatformJob
) -> None:
    model = job.job.model_name
    assert me.read("jobs", "deploy", job.name, "--no-follow")["status"] == "deploying"
    serving = meanwhile(lambda: job.serve(model))
    shown = me.run("jobs", "deploy", job.name)
    serving.join()
    assert model in shown
    assert "active" in shown
    assert model in me.run("models", "deployments")
    assert "active" in me.run("models", "list")
    assert me.read("models", "undeploy", model)["status"] == "undeployed"
    platform.project()
    told = me.run("jobs", "events", job.name).splitlines()[-3:]
    for topic, line in zip(
        ("DeploymentRequested", "DeploymentActivated", "Undeployed"), told, strict=True
    ):
        assert topic in line
        assert model in line
    assert me.refused("models", "deploy", "ft:tiny:none", code=4)


@pytest.mark.full
def test_a_model_is_deleted(me: Owner, platform: Platform, job: PlatformJob) -> None:
    model = job.job.model_name
    assert me.read("models", "delete", model) == {"model": model, "deleted": True}
    assert me.read("models", "list")["models"] == []
    assert model in me.refused("models", "delete", model, code=4)
    assert me.read("jobs", "show", job.name)["status"] == "registered"


def test_a_failed_checkpoint_deployment_prints_the_reason(
    me: Owner, platform: Platform, job: PlatformJob
) -> None:
    name = me.read("jobs", "deploy", job.name, "--step", "10", "--no-follow")["model"]
    job.fail_deployment(name)
    platform.project()
    failed = me.read("models", "deployments")["data"][-1]
    assert failed["failure"]["message"] == f"It died with {name}."
