"""The page of models: every state of what is deployed, and the commands that change it."""

from __future__ import annotations

import io
import json
import re
from datetime import timedelta
from zipfile import ZipFile

import pytest
from fastapi.testclient import TestClient
from gateway.models.api.models import KeptAdapter
from gateway.models.pages.models import Shown

from domain.access.role import Role
from domain.core.aggregate import because
from domain.core.identity import PLATFORM_ACCOUNT_ID, deployment_id
from domain.deployments.deployment import Deployment
from gateway.http.errors import LOADING_SECONDS
from gateway.models.pages import models
from infrastructure.artifacts import Artifacts, Manifest, ManifestFile
from infrastructure.settings import Settings
from tests.gateway.conftest import BASE_MODEL, World
from tests.gateway.test_deployments import Deployer
from tests.gateway.test_job_commands import Owner
from tests.gateway.web.signed_in import Browser, signed_in


@pytest.fixture
def owner(client: TestClient, world: World) -> Deployer:
    """A person whose job registered a model."""
    return Deployer(client, world)


@pytest.fixture
def browser(client: TestClient, owner: Deployer) -> Browser:
    """The browser of that person."""
    owner.world.project()
    return signed_in(client, owner.person)


def lists(browser: Browser) -> str:
    return text(browser.client.get("/models/list").text)


def give(browser: Browser, path: str) -> str:
    answer = browser.client.post(path, headers=browser.htmx)
    assert answer.status_code == 200
    return text(answer.text)


def text(markup: str) -> str:
    """Markup with its spaces run together."""
    return re.sub(r"\s+", " ", markup)


def fail(owner: Deployer, code: str, message: str) -> None:
    with because(owner.world.cause):
        own = deployment_id(owner.person.account_id, owner.model)
        deployment = owner.world.log.load(Deployment, own)
        deployment.fail(code, message)
        owner.world.log.commit(deployment)
    owner.world.project()


def undeploy_base(world: World) -> None:
    with because(world.cause):
        base = world.log.load(Deployment, deployment_id(PLATFORM_ACCOUNT_ID, BASE_MODEL))
        base.undeploy()
        world.log.commit(base)
    world.project()


def test_a_model_is_shown_with_where_it_comes_from(browser: Browser, owner: Deployer) -> None:
    page = text(browser.client.get("/models").text)
    assert f"<code>{owner.model}</code>" in page
    assert f'href="/fine-tune/{owner.path.rpartition("/")[2]}"' in page
    assert "3.0000 → <strong>2.0000</strong>" in page
    assert "not deployed" in page
    assert "/models/list" not in page  # nothing moves, so nothing is asked for


def test_a_model_is_deployed_and_the_page_asks_until_it_is_active(
    browser: Browser, owner: Deployer
) -> None:
    deploying = give(browser, f"/models/{owner.model}/deploy")
    assert "Deploying…" in deploying
    assert 'hx-get="/models/list" hx-trigger="every 1s"' in deploying
    assert f"{owner.model} is being deployed." in deploying
    owner.serve(owner.model)
    active = lists(browser)
    assert f"/models/playground?model={owner.model.replace(':', '%3A')}" in active
    assert "hx-trigger" not in active
    assert "Undeploy" in active
    assert ">Deploy</button>" in give(browser, f"/models/{owner.model}/undeploy")


def test_what_takes_long_says_so_and_can_be_given_up(
    browser: Browser, owner: Deployer, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(browser, f"/models/{owner.model}/deploy")
    assert "longer than usual" not in lists(browser)
    monkeypatch.setattr(models, "LATE", timedelta(0))
    late = lists(browser)
    assert "longer than usual" in late
    assert "Undeploy" in late


def test_a_failure_says_why_and_what_to_do(browser: Browser, owner: Deployer) -> None:
    give(browser, f"/models/{owner.model}/deploy")
    fail(owner, "serving_died", "The serving process died again and again.")
    shown = lists(browser)
    assert "The serving process died again and again. Make room for it" in shown
    assert "Deploy again" in shown
    assert "Deploying…" in give(browser, f"/models/{owner.model}/deploy")


def test_without_its_base_a_model_cannot_be_deployed(browser: Browser, owner: Deployer) -> None:
    undeploy_base(owner.world)
    shown = lists(browser)
    assert f"{BASE_MODEL} is not deployed. An operator can deploy it." in shown
    assert f"/models/{owner.model.replace(':', '%3A')}/deploy" not in shown
    refused = give(browser, f"/models/{owner.model}/deploy")
    assert f"An adapter needs its base, and {BASE_MODEL} is not deployed" in refused
    assert 'role="alert"' in refused


def test_a_deployed_checkpoint_is_asked_about_before_it_is_undeployed(
    browser: Browser, owner: Deployer
) -> None:
    assert "Deployed checkpoints" not in lists(browser)
    owner.post(f"{owner.path.removeprefix('/api')}/checkpoints/10/deploy")
    name = f"{owner.model}:ckpt-step-10"
    owner.serve(name)
    shown = lists(browser)
    assert "Deployed checkpoints" in shown
    assert "Undeploy this checkpoint?" in shown
    assert "may then be deleted" in shown
    assert name not in give(browser, f"/models/{name}/undeploy")


def test_only_an_operator_is_offered_the_bases(client: TestClient, world: World) -> None:
    world.base_model()
    user, operator = world.person(), world.person(Role.OPERATOR)
    world.project()
    as_user = signed_in(client, user)
    assert "Only an operator deploys bases" in lists(as_user)
    assert "/models/bases/" not in lists(as_user)
    assert "Only an operator" in give(as_user, f"/models/bases/{BASE_MODEL}/undeploy")
    client.cookies.clear()
    as_operator = signed_in(client, operator)
    assert "Only an operator" not in lists(as_operator)
    assert f"Undeploy {BASE_MODEL}?" in lists(as_operator)
    assert f"/models/bases/{BASE_MODEL}/deploy" in give(
        as_operator, f"/models/bases/{BASE_MODEL}/undeploy"
    )
    assert "Undeploy" in give(as_operator, f"/models/bases/{BASE_MODEL}/deploy")


def test_what_a_cancelled_job_kept_is_promoted(client: TestClient, world: World) -> None:
    cancelled = Owner(client, world)
    cancelled.train()
    cancelled.give("cancel")
    cancelled.end()
    world.project()
    browser = signed_in(client, cancelled.person)
    shown = lists(browser)
    assert "30 days left" in shown
    assert "step 10, train loss 2.000" in shown
    assert "other checkpoints are deleted" in shown
    assert "No models yet" in shown
    job = cancelled.path.rpartition("/")[2]
    promoted = give(browser, f"/models/jobs/{job}/promote")
    assert "days left" not in promoted
    assert "not evaluated" in promoted
    assert "Download adapter" in promoted


def test_the_time_that_is_left_is_said_in_days_and_at_last_in_hours(world: World) -> None:
    now = world.cause.now
    there = Shown([], [], [], {}, {}, False, now)

    def left(by: timedelta | None) -> str:
        due = None if by is None else now + by
        return there.time_left(KeptAdapter.model_construct(expires_at=due))

    assert left(timedelta(days=29, hours=1)) == "30 days left"
    assert left(timedelta(hours=5)) == "5 h left"
    assert left(timedelta(seconds=-1)) == "0 s left"
    assert left(None) == "kept"


def test_strangers_see_nothing_of_it(browser: Browser, owner: Deployer, world: World) -> None:
    browser.client.cookies.clear()
    stranger = signed_in(browser.client, world.person())
    assert owner.model not in stranger.client.get("/models").text
    assert "was never deployed" in give(stranger, f"/models/{owner.model}/undeploy")
    job = owner.path.rpartition("/")[2]
    assert "No job" in give(stranger, f"/models/jobs/{job}/promote")


def test_an_adapter_is_downloaded_as_one_archive(
    browser: Browser, owner: Deployer, settings: Settings
) -> None:
    path = f"/api/models/{owner.model}/archive"
    assert browser.client.get(path).status_code == 404  # its files are gone
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


def test_the_playground_offers_what_answers(browser: Browser, owner: Deployer) -> None:
    page = text(browser.client.get("/models/playground").text)
    assert f'<option value="{BASE_MODEL}" selected>' in page
    assert f"{owner.model} (not deployed)" in page
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


def test_the_playground_says_why_nothing_can_be_asked(browser: Browser, owner: Deployer) -> None:
    gone = browser.client.get("/models/playground/chosen?model=ft:none").text
    assert "no such model any more" in gone
    assert "data-ready" not in gone
    give(browser, f"/models/{owner.model}/deploy")
    fail(owner, "load_failed", "The weights could not be loaded.")
    why = text(browser.client.get(f"/models/playground/chosen?model={owner.model}").text)
    assert "could not be loaded. Deploy it again" in why
    undeploy_base(owner.world)
    without = text(browser.client.get(f"/models/playground/chosen?model={owner.model}").text)
    assert "is not deployed. An operator can deploy it." in without
    assert "data-ready" not in without


def test_a_playground_without_anything_says_so(client: TestClient, world: World) -> None:
    browser = signed_in(client, world.person())
    assert "Nothing answers yet" in browser.client.get("/models/playground").text
    page = browser.client.get("/models").text
    assert "No base models yet" in page
    assert "There is no model to call yet." in page


def test_what_is_refused_is_said_in_the_stream(browser: Browser, owner: Deployer) -> None:
    def said(model: str, **more: object) -> dict[str, object]:
        form = {"model": model, "messages": [{"role": "user", "content": "Hello!"}], "stream": True}
        answer = browser.client.post(
            "/models/playground/say", json=form | more, headers=browser.htmx
        )
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        return json.loads(answer.text.removeprefix("data: "))["error"]

    assert said(owner.model) == {
        "message": f"{owner.model} is not deployed; deploy it with "
        f"POST /api/models/{owner.model}/deploy",
        "passing": False,
    }
    give(browser, f"/models/{owner.model}/deploy")
    assert said(owner.model)["passing"] is True
    assert said(owner.model)["retry_after"] == LOADING_SECONDS
    assert "is being loaded" in str(said(owner.model)["message"])
    assert "cannot be reached" in str(said(BASE_MODEL)["message"])  # nothing serves in this test
    assert said(BASE_MODEL, tools=[{}])["passing"] is False
    form = {"model": BASE_MODEL, "messages": []}
    assert browser.client.post("/models/playground/say", json=form).status_code == 403
