"""Deploy and undeploy as a model's owner, another account and the operator."""

from __future__ import annotations

from domain.access.role import Role
from domain.deployments.failures import ADVICE, AGAIN, advice_on
from services.serving.deployed import REASONS
from tests.builders.platform import BASE_MODEL, Platform
from tests.gateway.models.conftest import Deployer


def test_a_model_is_deployed_served_and_undeployed(owner: Deployer) -> None:
    deployed = [owner.deploy() for _ in range(2)]
    assert [answer.status_code for answer in deployed] == [200, 200]
    answer = deployed[1].json()
    assert (answer["model"], answer["status"]) == (owner.model, "deploying")
    assert (answer["base_model"], answer["step"], answer["failure"]) == (BASE_MODEL, None, None)
    assert f"/jobs/{answer['job_id']}" == owner.job_path
    owner.serve(owner.model)
    assert owner.deployments() == {BASE_MODEL: "active", owner.model: "active"}
    models = owner.get("/models").json()
    (base,), (own,) = models["base_models"], models["models"]
    assert base["deployment"] == own["deployment"] == "active"
    job = owner.get(owner.job_path).json()
    assert (job["model"], job["deployment"]) == (owner.model, "active")
    assert [owner.undeploy().json()["status"] for _ in range(2)] == ["undeployed"] * 2
    assert owner.deploy().json()["status"] == "deploying"
    assert owner.get(f"/models/{owner.model}/deployment").json()["status"] == "deploying"


def test_the_timeline_of_a_job_includes_its_deployments(owner: Deployer) -> None:
    owner.deploy()
    owner.serve(owner.model)
    owner.undeploy()
    owner.platform.project()
    timeline = owner.get(f"{owner.job_path}/timeline").json()["data"]
    topics = ["DeploymentRequested", "DeploymentActivated", "Undeployed"]
    assert [each["topic"] for each in timeline[-3:]] == topics
    assert {each["fields"]["model"] for each in timeline[-3:]} == {owner.model}
    job = owner.job_path.rpartition("/")[2]
    events = owner.get(f"/events?job={job}&limit=1000").json()["data"]
    assert [each["event"] for each in events[-3:]] == topics
    assert {each["job_id"] for each in events} == {job}


def test_a_checkpoint_is_deployed_under_a_name_of_its_own(owner: Deployer) -> None:
    path = f"{owner.job_path}/checkpoints"
    missing = owner.post(f"{path}/999/deploy")
    assert missing.status_code == 404
    assert "10" in missing.json()["error"]["message"]
    deployed = owner.post(f"{path}/10/deploy").json()
    assert (deployed["model"], deployed["step"]) == (owner.checkpoint, 10)
    owner.platform.project()
    (saved,) = owner.get(path).json()["data"]
    assert (saved["model"], saved["deployment"]) == (owner.checkpoint, "deploying")
    owner.post(f"/models/{owner.checkpoint}/undeploy")
    assert owner.post(f"/models/{owner.checkpoint}/deploy").json()["status"] == "deploying"


def test_a_failed_deployment_has_its_reason(owner: Deployer) -> None:
    owner.deploy()
    owner.fail("serving_died", "It died.")
    advice = ADVICE["serving_died"]
    failure = {"code": "serving_died", "message": "It died.", "advice": advice}
    assert owner.get(f"/models/{owner.model}/deployment").json()["failure"] == failure


def test_every_failure_has_its_advice() -> None:
    assert {*REASONS, "base_not_deployed"} == set(ADVICE)
    assert advice_on("unknown") == AGAIN


def test_other_accounts_cannot_find_the_model(owner: Deployer, platform: Platform) -> None:
    stranger = platform.person()
    owner.deploy()
    for path in (
        f"/models/{owner.model}/deploy",
        f"/models/{owner.model}/undeploy",
        f"/models/{BASE_MODEL}/undeploy",
        f"{owner.job_path}/checkpoints/10/deploy",
    ):
        assert owner.post(path, stranger).status_code == 404
    assert owner.get(f"/models/{owner.model}/deployment", stranger).status_code == 404
    assert owner.deployments(stranger) == {BASE_MODEL: "active"}


def test_only_an_operator_ends_a_base_and_not_under_its_adapters(
    owner: Deployer, platform: Platform
) -> None:
    operator, base = platform.person(Role.OPERATOR), f"/operator/bases/{BASE_MODEL}"
    for command in ("deploy", "undeploy"):
        assert owner.post(f"{base}/{command}").status_code == 403
    owner.deploy()
    refused = owner.post(f"{base}/undeploy", operator)
    assert refused.status_code == 409
    assert refused.json()["error"]["figures"] == {"adapters": 1}
    owner.undeploy()
    assert owner.post(f"{base}/undeploy", operator).json()["status"] == "undeployed"
    assert owner.deploy().status_code == 409
    assert owner.post(f"{base}/deploy", operator).json()["status"] == "deploying"
    assert owner.post("/operator/bases/none/deploy", operator).status_code == 404
