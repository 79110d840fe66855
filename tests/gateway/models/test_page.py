"""The models page and the playground: states of deployments, and commands."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from typing import Any
from zipfile import ZipFile

import pytest
from fastapi.testclient import TestClient

from domain.access.role import Role
from gateway.chat.serving import UNREACHABLE
from gateway.http.errors import LOADING_SECONDS
from gateway.models import view
from gateway.models.schemas import KeptAdapter
from gateway.models.view import ModelsView
from infrastructure.artifacts.store import Manifest
from tests.builders.platform import BASE_MODEL, Platform
from tests.gateway.jobs.owners import Owner
from tests.gateway.models.conftest import Deployer, text
from tests.gateway.web.signed_in import Browser, signed_in

DEPLOYS = 'hx-post="/models/{}/deploy"'
UNDEPLOYS = 'hx-post="/models/{}/undeploy"'


@pytest.fixture
def browser(client: TestClient, owner: Deployer) -> Browser:
    """The browser of the model's owner."""
    owner.platform.project()
    return signed_in(client, owner.person)


def shown(browser: Browser, path: str = "/list") -> str:
    return text(browser.client.get(f"/models{path}").text)


def give(browser: Browser, path: str) -> str:
    answer = browser.client.post(f"/models{path}", headers=browser.htmx)
    assert answer.status_code == 200
    return text(answer.text)


def quoted(owner: Deployer) -> str:
    return owner.model.replace(":", "%3A")


def test_a_model_shows_its_job_and_losses(browser: Browser, owner: Deployer) -> None:
    page = shown(browser, "")
    assert f"<code>{owner.model}</code>" in page
    assert f'href="/fine-tune/{owner.path.rpartition("/")[2]}"' in page
    assert "3.0000 → <strong>2.0000</strong>" in page
    assert 'data-status="undeployed"' in page
    assert "/models/list" not in page  # no deployment is in progress


def test_the_page_polls_until_a_deployment_is_active(browser: Browser, owner: Deployer) -> None:
    deploying = give(browser, f"/{owner.model}/deploy")
    assert 'data-status="deploying"' in deploying
    assert 'hx-get="/models/list" hx-trigger="every 1s"' in deploying
    announced = deploying.partition('role="status">')[2].partition("</p>")[0]
    assert owner.model in announced
    owner.serve(owner.model)
    active = shown(browser)
    assert f"/models/playground?model={quoted(owner)}" in active
    assert "hx-trigger" not in active
    assert UNDEPLOYS.format(quoted(owner)) in active
    assert DEPLOYS.format(quoted(owner)) in give(browser, f"/{owner.model}/undeploy")


def test_a_model_is_deleted_after_a_confirmation(browser: Browser, owner: Deployer) -> None:
    page = shown(browser)
    assert f'hx-post="/models/{quoted(owner)}/delete"' in page
    assert f'data-opens="delete-model-{owner.job_id.hex}"' in page
    deleted = give(browser, f"/{owner.model}/delete")
    assert owner.model not in deleted
    assert "No models yet" in deleted
    assert "Unknown model" in give(browser, f"/{owner.model}/delete")


def test_the_page_polls_again_if_a_deployment_ends_while_it_is_read(
    browser: Browser, owner: Deployer, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(browser, f"/{owner.model}/deploy")
    listed = view.list_deployments

    def list_later(*arguments: Any) -> Any:
        owner.serve(owner.model)
        return listed(*arguments)

    monkeypatch.setattr(view, "list_deployments", list_later)
    page = shown(browser)
    assert "Deploying…" in page
    assert "every 1s" in page


def test_a_slow_deployment_can_be_undeployed(
    browser: Browser, owner: Deployer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "data-late" not in give(browser, f"/{owner.model}/deploy")
    monkeypatch.setattr(view, "LATE", timedelta(0))
    late = shown(browser)
    assert "data-late" in late
    assert f'data-opens="undeploy-model-{owner.job_id.hex}"' in late


def test_a_failed_deployment_shows_the_failure_and_can_be_retried(
    browser: Browser, owner: Deployer
) -> None:
    give(browser, f"/{owner.model}/deploy")
    owner.fail("serving_died", "The serving process died.")
    for path in ("/list", f"/playground/chosen?model={owner.model}"):
        assert 'data-failure="serving_died"' in shown(browser, path)
    assert "The serving process died." in shown(browser)
    assert DEPLOYS.format(quoted(owner)) in shown(browser)
    assert 'data-status="deploying"' in give(browser, f"/{owner.model}/deploy")


def test_a_model_needs_a_deployed_base_model(browser: Browser, owner: Deployer) -> None:
    owner.undeploy_base()
    lists, chosen = shown(browser), shown(browser, f"/playground/chosen?model={owner.model}")
    assert "data-base-missing" in lists
    assert "data-base-missing" in chosen
    assert "data-ready" not in chosen
    assert DEPLOYS.format(quoted(owner)) not in lists
    assert 'role="alert" data-code="wrong_state"' in give(browser, f"/{owner.model}/deploy")


def test_undeploying_a_checkpoint_asks_first(browser: Browser, owner: Deployer) -> None:
    assert "checkpoints-title" not in shown(browser)
    owner.post(f"{owner.job_path}/checkpoints/10/deploy")
    owner.serve(owner.checkpoint)
    lists = shown(browser)
    assert "checkpoints-title" in lists
    assert f'<dialog id="undeploy-{owner.job_id.hex}-10"' in lists
    assert owner.checkpoint not in give(browser, f"/{owner.checkpoint}/undeploy")


def test_only_an_operator_can_deploy_base_models(client: TestClient, platform: Platform) -> None:
    platform.base_model()
    user, operator = platform.person(), platform.person(Role.OPERATOR)
    platform.project()
    deploy, undeploy = (f"/bases/{BASE_MODEL}/{command}" for command in ("deploy", "undeploy"))
    as_user = signed_in(client, user)
    assert "/models/bases/" not in shown(as_user)
    assert 'data-code="forbidden"' in give(as_user, undeploy)
    client.cookies.clear()
    as_operator = signed_in(client, operator)
    assert f'<dialog id="undeploy-base-{BASE_MODEL}"' in shown(as_operator)
    assert f"/models{deploy}" in give(as_operator, undeploy)
    assert f'data-opens="undeploy-base-{BASE_MODEL}"' in give(as_operator, deploy)


def test_an_operator_deletes_a_base_model_that_is_not_used(
    client: TestClient, platform: Platform
) -> None:
    owner = Owner(client, platform)
    operator = signed_in(client, platform.person(Role.OPERATOR))
    platform.project()
    delete = f"/bases/{BASE_MODEL}/delete"
    assert 'data-code="wrong_state"' in give(operator, delete)
    assert owner.give("cancel").is_success
    assert f'data-opens="delete-base-{BASE_MODEL}"' in give(
        operator, f"/bases/{BASE_MODEL}/undeploy"
    )
    assert BASE_MODEL not in give(operator, delete)
    assert 'data-code="not_found"' in give(operator, delete)


def test_a_kept_adapter_is_promoted(client: TestClient, platform: Platform) -> None:
    cancelled = Owner(client, platform)
    cancelled.train()
    cancelled.give("cancel")
    cancelled.end()
    platform.project()
    browser = signed_in(client, cancelled.person)
    lists = shown(browser)
    kept, own = (f'id="{kind}-{cancelled.job_id.hex}"' for kind in ("kept", "model"))
    assert kept in lists
    assert own not in lists
    promoted = give(browser, f"/jobs/{cancelled.path.rpartition('/')[2]}/promote")
    assert kept not in promoted
    assert own in promoted
    assert "/archive" in promoted


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (timedelta(days=29, hours=1), "30 days left"),
        (timedelta(hours=5), "5 h left"),
        (timedelta(seconds=-1), "0 s left"),
        (None, "kept"),
    ],
)
def test_the_retention_is_in_days_then_in_hours(
    platform: Platform, left: timedelta | None, expected: str
) -> None:
    now = platform.cause.now
    adapter = KeptAdapter.model_construct(expires_at=None if left is None else now + left)
    view = ModelsView([], [], [], {}, {}, False, now)
    assert view.time_left(adapter) == expected


def test_another_account_sees_no_models(
    browser: Browser, owner: Deployer, platform: Platform
) -> None:
    browser.client.cookies.clear()
    stranger = signed_in(browser.client, platform.person())
    assert owner.model not in shown(stranger, "")
    job = owner.path.rpartition("/")[2]
    for path in (f"/{owner.model}/undeploy", f"/jobs/{job}/promote"):
        assert 'data-code="not_found"' in give(stranger, path)


def test_an_adapter_downloads_as_an_archive(browser: Browser, owner: Deployer) -> None:
    path = f"/api/models/{owner.model}/archive"
    assert browser.client.get(path).status_code == 404  # its files were deleted
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": bytes(3_000_000)}
    owner.platform.artifacts.add_files("jobs/a/adapter", Manifest(files=()), files)
    answer = browser.client.get(path)
    directory = owner.model.replace(":", "-")
    assert directory in answer.headers["content-disposition"]
    with ZipFile(io.BytesIO(answer.content)) as zipped:
        assert zipped.testzip() is None
        names = {f"{directory}/{name}" for name in (*files, "manifest.json")}
        assert set(zipped.namelist()) == names
        assert zipped.read(f"{directory}/adapter_config.json") == b"{}"


def test_the_playground_lists_models_and_their_states(browser: Browser, owner: Deployer) -> None:
    page = shown(browser, "/playground")
    assert f'<option value="{BASE_MODEL}" selected>' in page
    assert f'<option value="{owner.model}">' in page
    assert f"data-asked='[\"{BASE_MODEL}\"]' data-ready" in page
    chosen = shown(browser, f"/playground?model={owner.model}")
    assert f'<option value="{owner.model}" selected>' in chosen
    assert " data-ready" not in chosen
    deploying = give(browser, f"/playground/deploy?model={owner.model}")
    assert " data-ready" not in deploying
    assert "every 1s" in deploying
    owner.serve(owner.model)
    ready = shown(browser, f"/playground/chosen?model={owner.model}")
    assert f'data-asked=\'["{BASE_MODEL}", "{owner.model}"]\' data-ready' in ready
    assert "every 1s" not in ready
    unknown = shown(browser, "/playground/chosen?model=ft:none")
    assert "data-missing" in unknown
    assert "data-ready" not in unknown


def test_pages_without_models(client: TestClient, platform: Platform) -> None:
    browser = signed_in(client, platform.person())
    playground = shown(browser, "/playground")
    assert 'class="empty"' in playground
    assert "composer" not in playground
    assert 'data-empty="snippets"' in shown(browser, "")


def test_the_playground_streams_refusals(browser: Browser, owner: Deployer) -> None:
    path, messages = "/models/playground/say", [{"role": "user", "content": "Hello!"}]

    def said(model: str, **more: Any) -> dict[str, Any]:
        form = {"model": model, "messages": messages, "stream": True, **more}
        answer = browser.client.post(path, json=form, headers=browser.htmx)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        return json.loads(answer.text.removeprefix("data: "))["error"]

    refused = said(owner.model)
    assert (refused["code"], refused["passing"]) == ("wrong_state", False)
    give(browser, f"/{owner.model}/deploy")
    loading = said(owner.model)
    assert (loading["passing"], loading["retry_after"]) == (True, LOADING_SECONDS)
    assert said(BASE_MODEL)["message"] == UNREACHABLE  # this test has no serving process
    assert said(BASE_MODEL, logprobs=True)["passing"] is False
    assert browser.client.post(path, json={"model": BASE_MODEL, "messages": []}).status_code == 403
