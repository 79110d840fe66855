"""Jobs that continue a model or a checkpoint."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from domain.core.aggregate import because
from domain.jobs.job import Job
from gateway.http.openai_vocabulary import file_name, job_of
from services.scheduler.segment_spec import segment_spec, store_access
from tests.builders.platform import BASE_MODEL, Platform
from tests.builders.tiny_model import TINY_SHAPE
from tests.gateway.conftest import ClientOf
from tests.gateway.jobs.launch.wizard_form import Wizard
from tests.gateway.models.conftest import Deployer
from tests.gateway.web.signed_in import signed_in


@pytest.fixture
def owner(client: TestClient, platform: Platform) -> Deployer:
    return Deployer(client, platform)


def launch(owner: Deployer, name: str, **tuned: Any) -> Any:
    body = owner.form | {"base_model": name, "hyperparameters": tuned}
    return owner.client.post("/api/jobs", json=body, headers=owner.person.headers)


def test_a_job_starts_with_the_adapter_of_a_model(owner: Deployer, platform: Platform) -> None:
    answer = launch(owner, owner.model)
    assert answer.status_code == 201, answer.text
    job, parent = (platform.log.load(Job, id) for id in (job_of(answer.json()["id"]), owner.job_id))
    start = job.plan.start
    assert start is not None
    assert (start.model, start.job_id, start.step) == (owner.model, owner.job_id, None)
    assert (start.ref, start.manifest_sha256) == ("jobs/a/adapter", "a" * 64)
    assert (job.plan.base_model, job.model_name[:3]) == (BASE_MODEL, "ft:")
    assert job.plan.lora == parent.plan.lora
    spec = segment_spec(job, 60, platform.settings)
    assert (spec.start_ref, spec.start_manifest_sha256) == ("jobs/a/adapter", "a" * 64)
    assert "jobs/a/adapter" in store_access(job).read_folders
    shown = owner.get(f"/jobs/{answer.json()['id']}").json()
    assert (shown["continued_from"], shown["base_model"]) == (owner.model, BASE_MODEL)
    assert shown["continued_job_id"] == owner.name


def test_a_repeated_approval_returns_the_same_job(owner: Deployer) -> None:
    body = owner.form | {"base_model": owner.model}
    headers = owner.person.headers | {"idempotency-key": "again"}
    both = [owner.client.post("/api/jobs", json=body, headers=headers).json() for _ in range(2)]
    assert both[0]["id"] == both[1]["id"]
    other = body | {"hyperparameters": {"epochs": 7}}
    assert owner.client.post("/api/jobs", json=other, headers=headers).status_code == 409


def test_the_price_is_that_of_a_new_adapter(owner: Deployer) -> None:
    def estimate(name: str) -> Any:
        body = owner.form | {"base_model": name}
        answer = owner.client.post("/api/estimates", json=body, headers=owner.person.headers)
        return answer.json()["estimate"]

    assert estimate(owner.model) == estimate(BASE_MODEL)


def test_another_shape_is_refused_with_the_field(owner: Deployer) -> None:
    refused = launch(owner, owner.model, lora_r=64)
    error = refused.json()["error"]
    assert (refused.status_code, error["field"]) == (422, "lora_r")
    assert "lora_r 16" in error["message"]


def test_all_linear_must_be_the_shape_of_the_model(owner: Deployer) -> None:
    error = launch(owner, owner.model, target_modules="all-linear").json()["error"]
    assert (error["field"], "q_proj, v_proj" in error["message"]) == ("target_modules", True)


def test_a_model_of_all_linear_layers_continues_with_all_linear(
    client: TestClient, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready, tuned = Platform.ready, {"hyperparameters": {"target_modules": "all-linear"}}

    def with_all_layers(*given: Any) -> Any:
        person, form = ready(*given)
        return person, form | tuned

    monkeypatch.setattr(Platform, "ready", with_all_layers)
    owner = Deployer(client, platform)
    body = owner.form | {"base_model": owner.model}
    headers = owner.person.headers | {"idempotency-key": "once"}
    both = [client.post("/api/jobs", json=body, headers=headers) for _ in range(2)]
    assert [each.status_code for each in both] == [201, 200]
    assert both[0].json()["id"] == both[1].json()["id"]
    job = platform.log.load(Job, job_of(both[0].json()["id"]))
    assert set(job.plan.lora.target_modules) == set(TINY_SHAPE.linears)


def test_a_checkpoint_continues_after_its_job_has_ended(
    owner: Deployer, platform: Platform
) -> None:
    running = Deployer(owner.client, platform)
    refused = launch(owner, running.checkpoint)
    assert refused.status_code == 404, refused.text
    assert refused.json()["error"]["field"] == "base_model", refused.text
    refused = launch(owner, f"{owner.model}:ckpt-step-11")
    assert "no checkpoint of step 11" in refused.json()["error"]["message"]
    with because(platform.cause):
        job = platform.log.load(Job, owner.job_id)
        ended = job.status.is_final
    answer = launch(owner, owner.checkpoint)
    assert answer.status_code == (201 if ended else 409), answer.text


def test_a_model_cannot_be_deleted_while_a_job_continues_it(owner: Deployer) -> None:
    job = launch(owner, owner.model).json()
    path, headers = f"/api/models/{owner.model}", owner.person.headers
    refused = owner.client.delete(path, headers=headers)
    assert refused.status_code == 409
    assert "1 unfinished job continues" in refused.json()["error"]["message"]
    owner.client.post(f"/api/jobs/{job['id']}/cancel", headers=headers)
    assert owner.client.delete(path, headers=headers).is_success
    assert "was deleted" in launch(owner, owner.model).json()["error"]["message"]


def test_openais_client_continues_a_model(
    owner: Deployer, platform: Platform, client_of: ClientOf
) -> None:
    client = client_of(owner.person)
    file = file_name(platform.dataset(owner.person))
    job = client.fine_tuning.jobs.create(model=owner.model, training_file=file)
    assert job.model == owner.model
    assert client.fine_tuning.jobs.retrieve(job.id).model == owner.model
    plan = platform.log.load(Job, job_of(job.id)).plan
    assert plan.start is not None
    assert plan.start.job_id == owner.job_id


def test_the_wizard_takes_the_shape_of_the_model(owner: Deployer, platform: Platform) -> None:
    browser = signed_in(owner.client, owner.person)
    page = browser.client.get(f"/fine-tune/new?continue_from={owner.model}").text
    assert 'id="continued"' in page
    assert f'value="{owner.model}" id="base_model-{owner.model}" selected' in page
    assert "field-problem" not in page
    job = launch(owner, owner.model).json()
    shown = browser.client.get(f"/fine-tune/{job['id']}").text
    assert f'continued from <a href="/fine-tune/{owner.name}">{owner.model}</a>' in shown
    models = browser.client.get("/models").text
    assert f"/fine-tune/new?continue_from={owner.model.replace(':', '%3A')}" in models


def test_the_wizard_does_not_accept_another_shape(owner: Deployer, platform: Platform) -> None:
    wizard = Wizard(signed_in(owner.client, owner.person), platform, owner.form["dataset"])
    wizard.open(f"?continue_from={owner.model}")
    shown = wizard.change(lora_r="8", use_rslora="true")
    for name in ("lora_r", "lora_alpha", "use_rslora", "use_dora", "module-q_proj"):
        assert "disabled" in shown[name].attributes, name
    assert shown["lora_r"].attributes["value"] == "16"
    assert shown.find("follow-r") is None
    # The values stay in the form for a base model that is chosen afterwards.
    other = wizard.change(base_model=BASE_MODEL)
    assert "disabled" not in other["lora_r"].attributes
    assert other.fields["lora_r"] == "16"
    assert other.fields["target_modules"] == ["q_proj", "v_proj"]
