"""The models page: states of deployments, and commands."""

from __future__ import annotations

import io
import json
import re
from datetime import timedelta
from zipfile import ZipFile

import pytest
from fastapi.testclient import TestClient

from domain.access.role import Role
from domain.core.aggregate import because
from domain.core.identity import PLATFORM_ACCOUNT_ID, deployment_id
from domain.deployments.deployment import Deployment
from gateway.chat.serving import UNREACHABLE
from gateway.http.errors import LOADING_SECONDS
from gateway.models import view
from gateway.models.schemas import KeptAdapter
from gateway.models.view import ModelsView
from infrastructure.artifacts import Artifacts, Manifest, ManifestFile
from infrastructure.settings import Settings
from tests.builders.platform import BASE_MODEL, Platform
from tests.gateway.jobs.test_commands import Owner
from tests.gateway.models.test_deployments import Deployer
from tests.gateway.web.signed_in import Browser, signed_in

DEPLOYS = 'hx-post="/models/{}/deploy"'
UNDEPLOYS = 'hx-post="/models/{}/undeploy"'


@pytest.fixture
def owner(client: TestClient, platform: Platform) -> Deployer:
    """A person whose job registered a model."""
    return Deployer(client, platform)


@pytest.fixture
def browser(client: TestClient, owner: Deployer) -> Browser:
    """The browser of that person."""
    owner.platform.project()
    return signed_in(client, owner.person)


def lists(browser: Browser) -> str:
    return text(browser.client.get("/models/list").text)


def give(browser: Browser, path: str) -> str:
    answer = browser.client.post(path, headers=browser.htmx)
    assert answer.status_code == 200
    return text(answer.text)


def status_line(shown: str) -> str:
    """Return the text that screen readers announce."""
    return shown.partition('role="status">')[2].partition("</p>")[0]


def quoted(model: str) -> str:
    return model.replace(":", "%3A")


def job_hex(owner: Owner) -> str:
    """Return the hexadecimal id of a person's job."""
    return owner.job_id.hex


def text(markup: str) -> str:
    """Return markup with single spaces."""
    return re.sub(r"\s+", " ", markup)


def fail(owner: Deployer, code: str, message: str) -> None:
    with because(owner.platform.cause):
        own = deployment_id(owner.person.account_id, owner.model)
        deployment = owner.platform.log.load(Deployment, own)
        deployment.fail(code, message)
        owner.platform.log.commit(deployment)
    owner.platform.project()


def undeploy_base(platform: Platform) -> None:
    with because(platform.cause):
        base = platform.log.load(Deployment, deployment_id(PLATFORM_ACCOUNT_ID, BASE_MODEL))
        base.undeploy()
        platform.log.commit(base)
    platform.project()


def test_a_model_shows_its_job_and_losses(browser: Browser, owner: Deployer) -> None:
    page = text(browser.client.get("/models").text)
    assert f"<code>{owner.model}</code>" in page
    assert f'href="/fine-tune/{owner.path.rpartition("/")[2]}"' in page
    assert "3.0000 → <strong>2.0000</strong>" in page
    assert 'data-status="undeployed"' in page
    assert "/models/list" not in page  # no deployment is in progress


def test_the_page_polls_until_a_deployment_is_active(browser: Browser, owner: Deployer) -> None:
    deploying = give(browser, f"/models/{owner.model}/deploy")
    assert 'data-status="deploying"' in deploying
    assert 'hx-get="/models/list" hx-trigger="every 1s"' in deploying
    assert owner.model in status_line(deploying)
    owner.serve(owner.model)
    active = lists(browser)
    assert f"/models/playground?model={owner.model.replace(':', '%3A')}" in active
    assert "hx-trigger" not in active
    assert UNDEPLOYS.format(quoted(owner.model)) in active
    assert DEPLOYS.format(quoted(owner.model)) in give(browser, f"/models/{owner.model}/undeploy")


def test_a_slow_deployment_can_be_undeployed(
    browser: Browser, owner: Deployer, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(browser, f"/models/{owner.model}/deploy")
    assert "data-late" not in lists(browser)
    monkeypatch.setattr(view, "LATE", timedelta(0))
    late = lists(browser)
    assert "data-late" in late
    assert f'data-opens="undeploy-model-{job_hex(owner)}"' in late


def test_a_failed_deployment_shows_the_failure_and_can_be_retried(
    browser: Browser, owner: Deployer
) -> None:
    give(browser, f"/models/{owner.model}/deploy")
    fail(owner, "serving_died", "The serving process died again and again.")
    shown = lists(browser)
    assert 'data-failure="serving_died"' in shown
    assert "The serving process died again and again." in shown
    assert DEPLOYS.format(quoted(owner.model)) in shown
    assert 'data-status="deploying"' in give(browser, f"/models/{owner.model}/deploy")


def test_a_model_needs_a_deployed_base_model(browser: Browser, owner: Deployer) -> None:
    undeploy_base(owner.platform)
    shown = lists(browser)
    assert "data-base-missing" in shown
    assert DEPLOYS.format(quoted(owner.model)) not in shown
    assert 'role="alert" data-code="wrong_state"' in give(browser, f"/models/{owner.model}/deploy")


def test_undeploying_a_checkpoint_asks_first(browser: Browser, owner: Deployer) -> None:
    assert "checkpoints-title" not in lists(browser)
    owner.post(f"{owner.path.removeprefix('/api')}/checkpoints/10/deploy")
    name = f"{owner.model}:ckpt-step-10"
    owner.serve(name)
    shown = lists(browser)
    assert "checkpoints-title" in shown
    assert f'<dialog id="undeploy-{job_hex(owner)}-10"' in shown
    assert name not in give(browser, f"/models/{name}/undeploy")


def test_only_an_operator_can_deploy_base_models(client: TestClient, platform: Platform) -> None:
    platform.base_model()
    user, operator = platform.person(), platform.person(Role.OPERATOR)
    platform.project()
    as_user = signed_in(client, user)
    assert "/models/bases/" not in lists(as_user)
    assert 'data-code="forbidden"' in give(as_user, f"/models/bases/{BASE_MODEL}/undeploy")
    client.cookies.clear()
    as_operator = signed_in(client, operator)
    assert f'<dialog id="undeploy-base-{BASE_MODEL}"' in lists(as_operator)
    assert f"/models/bases/{BASE_MODEL}/deploy" in give(
        as_operator, f"/models/bases/{BASE_MODEL}/undeploy"
    )
    assert f'data-opens="undeploy-base-{BASE_MODEL}"' in give(
        as_operator, f"/models/bases/{BASE_MODEL}/deploy"
    )


def test_a_kept_adapter_is_promoted(client: TestClient, platform: Platform) -> None:
    cancelled = Owner(client, platform)
    cancelled.train()
    cancelled.give("cancel")
    cancelled.end()
    platform.project()
    browser = signed_in(client, cancelled.person)
    shown = lists(browser)
    kept, own = f'id="kept-{job_hex(cancelled)}"', f'id="model-{job_hex(cancelled)}"'
    assert kept in shown
    assert own not in shown
    job = cancelled.path.rpartition("/")[2]
    promoted = give(browser, f"/models/jobs/{job}/promote")
    assert kept not in promoted
    assert own in promoted
    assert "/archive" in promoted


def test_time_left_is_in_days_then_in_hours(platform: Platform) -> None:
    now = platform.cause.now
    there = ModelsView([], [], [], {}, {}, False, now)

    def left(by: timedelta | None) -> str:
        due = None if by is None else now + by
        return there.time_left(KeptAdapter.model_construct(expires_at=due))

    assert left(timedelta(days=29, hours=1)) == "30 days left"
    assert left(timedelta(hours=5)) == "5 h left"
    assert left(timedelta(seconds=-1)) == "0 s left"
    assert left(None) == "kept"


def test_another_account_sees_no_models(
    browser: Browser, owner: Deployer, platform: Platform
) -> None:
    browser.client.cookies.clear()
    stranger = signed_in(browser.client, platform.person())
    assert owner.model not in stranger.client.get("/models").text
    assert 'data-code="not_found"' in give(stranger, f"/models/{owner.model}/undeploy")
    job = owner.path.rpartition("/")[2]
    assert 'data-code="not_found"' in give(stranger, f"/models/jobs/{job}/promote")


def test_an_adapter_downloads_as_an_archive(
    browser: Browser, owner: Deployer, settings: Settings
) -> None:
    path = f"/api/models/{owner.model}/archive"
    assert browser.client.get(path).status_code == 404  # its files were deleted
    artifacts = Artifacts(settings.artifacts)
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": bytes(3_000_000)}
    for name, content in files.items():
        artifacts.put(f"jobs/a/adapter/{name}", content)
    listed = tuple(ManifestFile(path=n, bytes=len(c), sha256="0" * 64) for n, c in files.items())
    artifacts.put("jobs/a/adapter/manifest.json", Manifest(files=listed).content)
    answer = browser.client.get(path)
    directory = owner.model.replace(":", "-")
    assert directory in answer.headers["content-disposition"]
    with ZipFile(io.BytesIO(answer.content)) as zipped:
        assert zipped.testzip() is None
        assert set(zipped.namelist()) == {
            f"{directory}/{name}" for name in (*files, "manifest.json")
        }
        assert zipped.read(f"{directory}/adapter_config.json") == b"{}"


def test_the_playground_lists_models_and_their_states(browser: Browser, owner: Deployer) -> None:
    page = text(browser.client.get("/models/playground").text)
    assert f'<option value="{BASE_MODEL}" selected>' in page
    assert f'<option value="{owner.model}">' in page
    assert f"data-asked='[\"{BASE_MODEL}\"]' data-ready" in page
    chosen = text(browser.client.get(f"/models/playground?model={owner.model}").text)
    assert f'<option value="{owner.model}" selected>' in chosen
    assert " data-ready" not in chosen
    deploying = give(browser, f"/models/playground/deploy?model={owner.model}")
    assert " data-ready" not in deploying
    assert "every 1s" in deploying
    owner.serve(owner.model)
    ready = text(browser.client.get(f"/models/playground/chosen?model={owner.model}").text)
    assert f'data-asked=\'["{BASE_MODEL}", "{owner.model}"]\' data-ready' in ready
    assert "every 1s" not in ready


def test_the_playground_shows_why_a_model_cannot_be_used(browser: Browser, owner: Deployer) -> None:
    gone = browser.client.get("/models/playground/chosen?model=ft:none").text
    assert "data-missing" in gone
    assert "data-ready" not in gone
    give(browser, f"/models/{owner.model}/deploy")
    fail(owner, "load_failed", "The weights could not be loaded.")
    why = text(browser.client.get(f"/models/playground/chosen?model={owner.model}").text)
    assert 'data-failure="load_failed"' in why
    undeploy_base(owner.platform)
    without = text(browser.client.get(f"/models/playground/chosen?model={owner.model}").text)
    assert "data-base-missing" in without
    assert "data-ready" not in without


def test_pages_without_models(client: TestClient, platform: Platform) -> None:
    browser = signed_in(client, platform.person())
    playground = browser.client.get("/models/playground").text
    assert 'class="empty"' in playground
    assert "composer" not in playground
    assert 'data-empty="snippets"' in browser.client.get("/models").text


def test_the_playground_streams_refusals(browser: Browser, owner: Deployer) -> None:
    def said(model: str, **more: object) -> dict[str, object]:
        form = {"model": model, "messages": [{"role": "user", "content": "Hello!"}], "stream": True}
        answer = browser.client.post(
            "/models/playground/say", json=form | more, headers=browser.htmx
        )
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        return json.loads(answer.text.removeprefix("data: "))["error"]

    refused = said(owner.model)
    assert (refused["code"], refused["passing"]) == ("wrong_state", False)
    give(browser, f"/models/{owner.model}/deploy")
    assert said(owner.model)["passing"] is True
    assert said(owner.model)["retry_after"] == LOADING_SECONDS
    assert said(BASE_MODEL)["message"] == UNREACHABLE  # this test has no serving process
    assert said(BASE_MODEL, tools=[{}])["passing"] is False
    form = {"model": BASE_MODEL, "messages": []}
    assert browser.client.post("/models/playground/say", json=form).status_code == 403
