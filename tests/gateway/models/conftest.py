"""A person with a model, and their browser."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi.testclient import TestClient

from domain.core.aggregate import because
from domain.core.identity import PLATFORM_ACCOUNT_ID, deployment_id
from domain.deployments.deployment import Deployment
from domain.jobs.job import Job
from tests.builders.examples import evaluation_result
from tests.builders.platform import BASE_MODEL, Person, Platform
from tests.gateway.jobs.owners import Owner


class Deployer(Owner):
    """A person whose job registered a model and has a checkpoint."""

    def __init__(self, client: TestClient, platform: Platform, *, deploy: bool = False) -> None:
        super().__init__(client, platform, deploy=deploy)
        self.train()
        with because(platform.cause):
            job = platform.log.load(Job, self.job_id)
            job.start_evaluation(1, 30)
            job.complete_evaluation(1, evaluation_result(3.0, 2.0, 5, 400))
            job.register(1, "jobs/a/adapter", "a" * 64)
            platform.log.commit(job)
        self.model = job.model_name
        self.checkpoint = f"{self.model}:ckpt-step-10"

    @property
    def job_path(self) -> str:
        return self.path.removeprefix("/api")

    def get(self, path: str, person: Person | None = None) -> Any:
        return self.client.get(f"/api{path}", headers=(person or self.person).headers)

    def post(self, path: str, person: Person | None = None) -> Any:
        return self.client.post(f"/api{path}", headers=(person or self.person).headers)

    def deploy(self) -> Any:
        return self.post(f"/models/{self.model}/deploy")

    def undeploy(self) -> Any:
        return self.post(f"/models/{self.model}/undeploy")

    def deployments(self, person: Person | None = None) -> dict[str, str]:
        found = self.get("/deployments", person).json()["data"]
        return {each["model"]: each["status"] for each in found}

    def serve(self, model: str) -> None:
        """Load a deployment in the serving process."""
        self._change(model, Deployment.activate)

    def fail(self, code: str, message: str) -> None:
        self._change(self.model, lambda deployment: deployment.fail(code, message))

    def undeploy_base(self) -> None:
        self._change(BASE_MODEL, Deployment.undeploy)

    def _change(self, model: str, change: Any) -> None:
        account_id = PLATFORM_ACCOUNT_ID if model == BASE_MODEL else self.person.account_id
        with because(self.platform.cause):
            deployment = self.platform.log.load(Deployment, deployment_id(account_id, model))
            change(deployment)
            self.platform.log.commit(deployment)
        self.platform.project()


@pytest.fixture
def owner(client: TestClient, platform: Platform) -> Deployer:
    return Deployer(client, platform)


def text(markup: str) -> str:
    """Return markup with single spaces."""
    return re.sub(r"\s+", " ", markup)
