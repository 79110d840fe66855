"""Deploy and undeploy as a model's owner, another account and the operator."""

from __future__ import annotations

from typing import Any

from fastapi.testclient import TestClient

from domain.access.role import Role
from domain.core.aggregate import because
from domain.core.identity import deployment_id
from domain.deployments.deployment import Deployment
from domain.deployments.failures import ADVICE, AGAIN, advice_on
from domain.jobs.job import Job
from services.serving.deployed import REASONS
from tests.builders.examples import evaluation_result
from tests.builders.platform import BASE_MODEL, Person, Platform
from tests.gateway.jobs.test_commands import Owner


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

    def post(self, path: str, person: Person | None = None) -> Any:
        return self.client.post(f"/api{path}", headers=(person or self.person).headers)

    def deployments(self, person: Person | None = None) -> dict[str, str]:
        answer = self.client.get("/api/deployments", headers=(person or self.person).headers)
        return {each["model"]: each["status"] for each in answer.json()["data"]}

    def serve(self, model: str) -> None:
        """Load the deployment in the serving process."""
        self.platform.activate(
            self.platform.log.load(Deployment, deployment_id(self.person.account_id, model))
        )
        self.platform.project()


def test_a_model_is_deployed_served_and_undeployed(client: TestClient, platform: Platform) -> None:
    owner = Deployer(client, platform)
    deployed = [owner.post(f"/models/{owner.model}/deploy") for _ in range(2)]
    assert [answer.status_code for answer in deployed] == [200, 200]
    answer = deployed[1].json()
    assert (answer["model"], answer["status"]) == (owner.model, "deploying")
    assert (answer["base_model"], answer["step"], answer["failure"]) == (BASE_MODEL, None, None)
    assert f"/api/jobs/{answer['job_id']}" == owner.path
    owner.serve(owner.model)
    assert owner.deployments() == {BASE_MODEL: "active", owner.model: "active"}
    models = client.get("/api/models", headers=owner.person.headers).json()
    assert [each["deployment"] for each in models["base_models"]] == ["active"]
    assert [each["deployment"] for each in models["models"]] == ["active"]
    job = client.get(owner.path, headers=owner.person.headers).json()
    assert (job["model"], job["deployment"]) == (owner.model, "active")
    undeployed = [owner.post(f"/models/{owner.model}/undeploy") for _ in range(2)]
    assert [each.json()["status"] for each in undeployed] == ["undeployed", "undeployed"]
    assert owner.post(f"/models/{owner.model}/deploy").json()["status"] == "deploying"
    shown = client.get(f"/api/models/{owner.model}/deployment", headers=owner.person.headers)
    assert shown.json()["status"] == "deploying"


def test_the_timeline_of_a_job_includes_its_deployments(
    client: TestClient, platform: Platform
) -> None:
    owner = Deployer(client, platform)
    owner.post(f"/models/{owner.model}/deploy")
    owner.serve(owner.model)
    owner.post(f"/models/{owner.model}/undeploy")
    platform.project()
    timeline = client.get(f"{owner.path}/timeline", headers=owner.person.headers).json()["data"]
    told = ["DeploymentRequested", "DeploymentActivated", "Undeployed"]
    assert [each["topic"] for each in timeline[-3:]] == told
    assert {each["fields"]["model"] for each in timeline[-3:]} == {owner.model}
    job = owner.path.rpartition("/")[2]
    asked = {"job": job, "limit": 1000}
    events = client.get("/api/events", params=asked, headers=owner.person.headers).json()["data"]
    assert [each["event"] for each in events[-3:]] == told
    assert {each["job_id"] for each in events} == {job}


def test_a_checkpoint_is_deployed_under_a_name_of_its_own(
    client: TestClient, platform: Platform
) -> None:
    owner = Deployer(client, platform)
    path = f"{owner.path.removeprefix('/api')}/checkpoints"
    missing = owner.post(f"{path}/999/deploy")
    assert missing.status_code == 404
    assert "10" in missing.json()["error"]["message"]
    deployed = owner.post(f"{path}/10/deploy").json()
    assert (deployed["model"], deployed["step"]) == (f"{owner.model}:ckpt-step-10", 10)
    platform.project()
    (saved,) = client.get(f"/api{path}", headers=owner.person.headers).json()["data"]
    assert (saved["model"], saved["deployment"]) == (deployed["model"], "deploying")
    owner.post(f"/models/{deployed['model']}/undeploy")
    assert owner.post(f"/models/{deployed['model']}/deploy").json()["status"] == "deploying"


def test_a_failed_deployment_has_its_reason(client: TestClient, platform: Platform) -> None:
    owner = Deployer(client, platform)
    owner.post(f"/models/{owner.model}/deploy")
    with because(platform.cause):
        own = deployment_id(owner.person.account_id, owner.model)
        deployment = platform.log.load(Deployment, own)
        deployment.fail("serving_died", "It died.")
        platform.log.commit(deployment)
    platform.project()
    shown = client.get(f"/api/models/{owner.model}/deployment", headers=owner.person.headers)
    assert shown.json()["failure"] == {
        "code": "serving_died",
        "message": "It died.",
        "advice": ADVICE["serving_died"],
    }


def test_every_failure_has_its_advice() -> None:
    assert {*REASONS, "base_not_deployed"} == set(ADVICE)
    assert advice_on("unknown") == AGAIN


def test_other_accounts_cannot_find_the_model(client: TestClient, platform: Platform) -> None:
    owner, stranger = Deployer(client, platform), platform.person()
    owner.post(f"/models/{owner.model}/deploy")
    path = owner.path.removeprefix("/api")
    for asked in (
        f"/models/{owner.model}/deploy",
        f"/models/{owner.model}/undeploy",
        f"/models/{BASE_MODEL}/undeploy",
        f"{path}/checkpoints/10/deploy",
    ):
        assert owner.post(asked, stranger).status_code == 404
    shown = client.get(f"/api/models/{owner.model}/deployment", headers=stranger.headers)
    assert shown.status_code == 404
    assert owner.deployments(stranger) == {BASE_MODEL: "active"}


def test_only_an_operator_ends_a_base_and_not_under_its_adapters(
    client: TestClient, platform: Platform
) -> None:
    owner, operator = Deployer(client, platform), platform.person(Role.OPERATOR)
    base = f"/operator/bases/{BASE_MODEL}"
    for command in ("deploy", "undeploy"):
        assert owner.post(f"{base}/{command}").status_code == 403
    owner.post(f"/models/{owner.model}/deploy")
    refused = owner.post(f"{base}/undeploy", operator)
    assert refused.status_code == 409
    assert refused.json()["error"]["figures"] == {"adapters": 1}
    owner.post(f"/models/{owner.model}/undeploy")
    assert owner.post(f"{base}/undeploy", operator).json()["status"] == "undeployed"
    without = owner.post(f"/models/{owner.model}/deploy")
    assert without.status_code == 409
    assert f"{BASE_MODEL} is not deployed" in without.json()["error"]["message"]
    assert owner.post(f"{base}/deploy", operator).json()["status"] == "deploying"
    assert owner.post("/operator/bases/none/deploy", operator).status_code == 404
