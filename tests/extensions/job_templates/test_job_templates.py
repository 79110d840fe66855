"""Job templates, over the API and on the pages."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient

from domain.access.rights import KeyRequest
from domain.access.scope import Scope
from domain.jobs.job import Job
from extensions.job_templates import service
from extensions.job_templates.tables import rename_template
from gateway.http.openai_vocabulary import job_of
from gateway.jobs.pages.wizard.entries import Entries, read
from infrastructure.accounts.personal_data import delete_personal_data
from infrastructure.accounts.profiles import set_dataset_name
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.builders.platform import BASE_MODEL, Platform
from tests.gateway.api_user import ApiUser
from tests.gateway.jobs.launch.wizard_form import PATH, Wizard
from tests.gateway.web.html import read_html

TEMPLATES = "/api/job-templates"
TUNED = {"epochs": 2, "learning_rate": 5e-5, "lora_r": 8, "eval_steps": 7, "use_dora": True}


@pytest.fixture
def form() -> dict[str, Any]:
    """The choices of a job, besides those of `Platform.ready`."""
    return {
        "hyperparameters": TUNED,
        "suffix": "mine",
        "deploy": True,
        "max_cost": "1234.50",
        "wait": True,
    }


@pytest.fixture
def user(client: TestClient, platform: Platform, form: dict[str, Any]) -> ApiUser:
    person, ready = platform.ready()
    form |= ready
    return ApiUser(client, person)


def test_a_template_is_saved_from_a_job_used_renamed_and_deleted(
    user: ApiUser, platform: Platform, form: dict[str, Any]
) -> None:
    job = user.post("/api/jobs", form).json()
    saved = user.post(TEMPLATES, {"name": " Support bot ", "job": job["id"]})
    assert saved.status_code == 201, saved.text
    template = saved.json()
    assert (template["name"], template["job"]) == ("Support bot", job["id"])
    assert template["request"] == user.get(f"/api/jobs/{job['id']}/request").json()
    assert template["request"]["max_cost"] == "1234.50"
    assert user.list(TEMPLATES) == [template]
    path = f"{TEMPLATES}/{template['id']}"
    assert user.get(path).json() == template

    again = user.post("/api/jobs", template["request"])
    assert again.status_code == 201, again.text
    first, second = (platform.log.load(Job, job_of(each["id"])) for each in (job, again.json()))
    assert second.plan.choices == first.plan.choices
    # EcoLink chose the GPUs of the first job. The template names them.
    assert second.order == first.order.model_copy(update={"request_sha256": None})

    headers = user.person.headers
    renamed = user.client.patch(path, json={"name": "Rank 8"}, headers=headers)
    assert renamed.json() == template | {"name": "Rank 8"}
    assert user.client.delete(path, headers=headers).status_code == 204
    assert user.client.delete(path, headers=headers).status_code == 404
    assert user.list(TEMPLATES) == []


def test_a_template_is_saved_from_a_request(user: ApiUser, form: dict[str, Any]) -> None:
    tracked = {"type": "mlflow", "mlflow": {"experiment_name": "support"}}
    template = user.post(TEMPLATES, {"name": "a", "request": form}).json()
    assert (template["job"], template["request"]["region"]) == (None, form.get("region"))
    assert template["request"]["hyperparameters"].items() >= TUNED.items()
    other = user.post(TEMPLATES, {"name": "b", "request": form | {"integrations": [tracked]}})
    assert other.json()["request"]["integrations"][0]["type"] == "mlflow"
    assert [each["name"] for each in user.list(TEMPLATES)] == ["a", "b"]


def test_a_refusal_names_the_field(
    user: ApiUser, platform: Platform, form: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(body: dict[str, Any], status: int = 422) -> str:
        answer = user.post(TEMPLATES, body)
        assert answer.status_code == status, answer.text
        return answer.text

    kept = user.post(TEMPLATES, {"name": "kept", "request": form}).json()
    assert user.post(TEMPLATES, {"name": "kept", "request": form}).json() == kept  # a repetition
    assert "kept" in refused({"name": "kept", "request": form | {"suffix": "other"}})
    assert "job or request" in refused({"name": "none"})
    assert "name" in refused({"name": " ", "request": form})
    assert "name" in refused({"name": "x" * 101, "request": form})
    assert "lora_r" in refused({"name": "y", "request": form | {"hyperparameters": {"lora_r": 0}}})
    refused({"name": "z", "job": f"ftjob-{uuid4().hex}"}, 404)
    user.post(TEMPLATES, {"name": "other", "request": form})
    renamed = user.client.patch(
        f"{TEMPLATES}/{kept['id']}", json={"name": "other"}, headers=user.person.headers
    )
    assert renamed.status_code == 422
    assert "other" in renamed.text
    monkeypatch.setattr(service, "MOST_TEMPLATES", 2)
    assert "2 job templates" in refused({"name": "third", "request": form})
    assert len(user.list(TEMPLATES)) == 2


def test_templates_belong_to_one_account_and_need_the_right_scope(
    user: ApiUser, platform: Platform, form: dict[str, Any]
) -> None:
    template = user.post(TEMPLATES, {"name": "kept", "request": form}).json()
    path = f"{TEMPLATES}/{template['id']}"
    stranger = ApiUser(user.client, platform.person())
    assert stranger.list(TEMPLATES) == []
    assert stranger.get(path).status_code == 404
    assert stranger.client.delete(path, headers=stranger.person.headers).status_code == 404
    wanted = KeyRequest(scopes=[Scope.READ])
    reader = platform.key(user.person.account_id, wanted).headers
    assert user.client.get(path, headers=reader).status_code == 200
    assert user.client.delete(path, headers=reader).status_code == 403


def test_a_template_that_this_version_cannot_use_can_be_renamed_and_deleted(
    user: ApiUser, settings: Settings, form: dict[str, Any]
) -> None:
    template = user.post(TEMPLATES, {"name": "kept", "request": form}).json()
    with connect(settings) as connection:
        connection.execute(
            "UPDATE job_templates SET request = jsonb_set(request, '{hyperparameters,new}', '7')"
        )
    (listed,) = user.list(TEMPLATES)
    assert listed["request"] is None
    assert "hyperparameters.new" in listed["problem"]
    path, headers = f"{TEMPLATES}/{template['id']}", user.person.headers
    renamed = user.client.patch(path, json={"name": "old"}, headers=headers)
    assert (renamed.status_code, renamed.json()["name"]) == (200, "old")
    assert user.client.delete(path, headers=headers).status_code == 204


def test_the_database_decides_which_of_two_names_is_first(
    user: ApiUser, settings: Settings, form: dict[str, Any]
) -> None:
    """Two renames at the same time both find the name free."""
    user.post(TEMPLATES, {"name": "first", "request": form})
    second = UUID(user.post(TEMPLATES, {"name": "second", "request": form}).json()["id"])
    with connect(settings) as connection:
        account_id = user.person.account_id
        assert not rename_template(connection, account_id, second, "first")
        assert rename_template(connection, account_id, second, "second")


def test_an_erasure_deletes_the_templates(
    user: ApiUser, settings: Settings, form: dict[str, Any]
) -> None:
    user.post(TEMPLATES, {"name": "kept", "request": form})
    with connect(settings) as connection:
        delete_personal_data(connection, Artifacts(settings.artifacts), user.person.account_id)
    assert user.list(TEMPLATES) == []


def test_the_wizard_saves_and_uses_a_template(wizard: Wizard) -> None:
    client, headers = wizard.browser.client, wizard.browser.htmx

    def save(name: str) -> Any:
        body = wizard.shown.fields | {"template_name": name}
        return client.post(f"{PATH}/template", data=body, headers=headers)

    wizard.open()
    assert "incomplete" in save("early").text
    wizard.complete()
    wizard.change(epochs="2", suffix="mine", deploy="true", max_cost="1234.5")
    assert "1 to 100" in save(" ").text
    saved = save("Support & co")
    assert "hx-redirect" not in saved.headers
    assert "Saved as the template Support &amp; co" in saved.text
    (template,) = client.get(TEMPLATES).json()["data"]
    with connect(wizard.platform.settings) as connection:
        set_dataset_name(connection, wizard.dataset, "tickets")
    row = read_html(client.get("/fine-tune/templates").text)[f"template-{template['id']}"].text
    assert f"Support & co tickets {BASE_MODEL} supervised 1 × CPU (this machine)" in row
    client.post(f"{PATH}/start-over", headers=headers)
    sent = wizard.open(f"?template={template['id']}").fields
    assert (sent["epochs"], sent["suffix"], sent["deploy"]) == ("2", "mine", ["true"])
    assert sent["max_cost"] == "1234.5"
    assert "deploy" not in wizard.change(deploy="").fields
    assert wizard.browser.client.get(f"{PATH}?template={uuid4()}").status_code == 404


def test_the_wizard_keeps_the_runs_and_tags_of_trackers(wizard: Wizard) -> None:
    pytest.importorskip("extensions.trackers")
    client = wizard.browser.client
    connected = client.put("/api/trackers/wandb", json={"secret": "x"}, headers=wizard.browser.htmx)
    assert connected.status_code == 200, connected.text
    wandb = {"project": "support", "name": "run 7", "tags": ["a", "b"]}
    integrations: list[dict[str, Any]] = [
        {"type": "wandb", "wandb": wandb},
        {"type": "tensorboard"},
    ]
    request = {"dataset": str(wizard.dataset), "base_model": BASE_MODEL}
    saved = client.post(
        TEMPLATES,
        json={"name": "tracked", "request": request | {"integrations": integrations}},
        headers=wizard.browser.htmx,
    ).json()
    wizard.open(f"?template={saved['id']}")
    assert "Runs and tags" in wizard.shown["carried"].text
    shown = wizard.shown.fields
    reading = read(Entries.model_validate(shown))
    assert reading.request is not None
    kept, files = reading.request.integrations
    assert (kept.type, files.type) == ("wandb", "tensorboard")
    assert kept.model_dump()["wandb"].items() >= wandb.items()
    other = read(Entries.model_validate(shown | {"wandb": "another"}))
    assert other.request is not None
    assert other.request.integrations[0].model_dump()["wandb"]["name"] is None


def test_the_pages_save_a_job_rename_and_delete(wizard: Wizard) -> None:
    client, headers = wizard.browser.client, wizard.browser.htmx
    wizard.open()
    wizard.complete()
    job = wizard.approve()
    assert isinstance(job, UUID)
    page = f"/fine-tune/ftjob-{job.hex}"
    assert "Save as template" in client.get(page).text
    saved = client.post(f"{page}/template", data={"name": "From a job"}, headers=headers)
    assert "hx-redirect" not in saved.headers
    assert 'class="notice"' in saved.text
    (template,) = client.get(TEMPLATES).json()["data"]
    path = f"/fine-tune/templates/{template['id']}"
    renamed = client.post(f"{path}/rename", data={"name": "Renamed"}, headers=headers)
    assert "Renamed" in renamed.text
    deleted = client.post(f"{path}/delete", headers=headers)
    assert "No templates yet" in deleted.text
