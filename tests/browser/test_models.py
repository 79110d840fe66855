"""Models in a browser: deployments, the playground and API keys."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Request, Route, expect

from tests.browser.tabs import Tabs
from tests.polling import eventually
from tests.running import EcoLinkUnderTest

pytestmark = pytest.mark.full

SAY = "**/models/playground/say"


@dataclass(frozen=True)
class Owner:
    """An account holder with a model."""

    person: EcoLinkUnderTest
    model: str

    def give(self, command: str, until: str) -> None:
        """Deploy or undeploy the model, and wait until it has the status."""
        path = f"/models/{self.model}"
        self.person.client.post(f"{path}/{command}", {})
        eventually(lambda: self.person.client.get(f"{path}/deployment")["status"] == until)


@pytest.fixture(scope="module")
def owner(ecolink: EcoLinkUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owner]:
    with ecolink.newcomer() as person:
        dataset = person.dataset(tmp_path_factory.mktemp("chats"), 12)
        job = person.await_end(person.approve(dataset, epochs=1))
        yield Owner(person, job["model"])


def answers(page: Page) -> Locator:
    """Return the responses to the last message."""
    return page.locator(".turn").last.locator(".answer")


def done(page: Page) -> Locator:
    """Return the finished responses to the last message."""
    return page.locator(".turn").last.locator(".answer[data-state=done]")


def say(page: Page, words: str) -> None:
    page.get_by_label("Message").fill(words)
    page.get_by_role("button", name="Send").click()


def test_a_deployed_model_replies_beside_its_base(tabs: Tabs, owner: Owner) -> None:
    owner.give("deploy", "active")
    owner.give("undeploy", "undeployed")
    page = tabs.open(owner.person, "/models")
    row = page.locator(".row").filter(has=page.get_by_text(owner.model))
    expect(row).to_contain_text("not deployed")
    page.evaluate("window.loadedOnce = true")
    row.get_by_role("button", name="Deploy", exact=True).focus()
    page.keyboard.press("Enter")
    undeploy = row.get_by_role("button", name="Undeploy")
    expect(undeploy).to_be_focused()  # the same button, without a reload
    assert page.evaluate("window.loadedOnce")
    row.get_by_role("button", name="Playground").click()
    expect(page.get_by_label("Model")).to_have_value(owner.model)

    asked: list[dict[str, Any]] = []
    page.on("request", lambda each: _note(each, asked))
    page.get_by_label("Max tokens").fill("12")
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("System prompt").fill("You are brief.")
    page.get_by_label("Message").fill("What is 2 plus 2?")
    page.keyboard.press("Enter")
    for kind, model in (("Base", "tiny"), ("Adapter", owner.model)):
        answer = answers(page).filter(has=page.get_by_role("heading", name=f"{kind} {model}"))
        expect(answer).to_contain_text(re.compile(r"\d+ tokens? in \d+\.\d s"))
        assert answer.locator("[data-text]").text_content()
    expect(page.get_by_role("status").filter(has_text="tokens")).to_contain_text("tiny: ")
    expect(page.get_by_label("Message")).to_have_value("")
    say(page, "And 3 plus 3?")
    expect(page.locator(".turn")).to_have_count(2)
    expect(done(page)).to_have_count(2)
    roles = [[each["role"] for each in body["messages"]] for body in asked]
    assert roles == [["system", "user"]] * 2 + [["system", "user", "assistant", "user"]] * 2
    assert sorted({body["model"] for body in asked}) == sorted({"tiny", owner.model})

    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".turn")).to_have_count(0)
    page.get_by_label("Model").select_option("tiny")
    expect(page).to_have_url(re.compile(r"\?model=tiny$"))
    say(page, "Hello!")
    expect(done(page)).to_have_count(1)


def _note(request: Request, asked: list[dict[str, Any]]) -> None:
    if request.url.endswith("/playground/say"):
        asked.append(json.loads(request.post_data or ""))


def test_a_response_can_be_stopped(tabs: Tabs, owner: Owner) -> None:
    owner.give("deploy", "active")
    page = tabs.open(owner.person, f"/models/playground?model={owner.model}")
    page.route(SAY, lambda route: None)  # no response
    with page.expect_request(SAY):
        say(page, "Tell me everything.")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".answer[data-state=stopped]")).to_have_count(2)
    expect(page.get_by_label("Message")).to_be_focused()
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()


def test_selecting_another_model_ends_the_conversation(tabs: Tabs, owner: Owner) -> None:
    owner.give("deploy", "active")
    page = tabs.open(owner.person, f"/models/playground?model={owner.model}")
    page.route(SAY, lambda route: None)  # no response
    with page.expect_request(SAY):
        say(page, "Tell me everything.")
    page.locator("#model").select_option("tiny")
    expect(answers(page)).to_have_count(0)
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    page.unroute(SAY)
    page.get_by_label("Max tokens").fill("5")
    say(page, "Hello!")
    expect(done(page)).to_have_count(1)


def test_a_temporary_error_is_retried_and_a_final_one_is_shown(tabs: Tabs, owner: Owner) -> None:
    page = tabs.open(owner.person, "/models/playground?model=tiny")
    replies = [
        {"error": {"message": "tiny is being loaded", "passing": True}},
        {"error": {"message": "the answer broke off", "passing": False}},
    ]
    asked: list[int] = []

    def refuse(route: Route) -> None:
        asked.append(len(asked))
        if len(asked) > len(replies):
            route.continue_()
        else:
            event = f"data: {json.dumps(replies[len(asked) - 1])}\n\n"
            route.fulfill(body=event, content_type="text/event-stream")

    page.route(SAY, refuse)
    say(page, "Hello!")
    expect(answers(page)).to_contain_text("the answer broke off")
    assert len(asked) == 2
    page.get_by_label("Max tokens").fill("5")
    say(page, "Hello again!")
    expect(done(page)).to_have_count(1)


def test_a_message_to_an_undeployed_model_is_not_sent(tabs: Tabs, owner: Owner) -> None:
    owner.give("deploy", "active")
    page = tabs.open(owner.person, f"/models/playground?model={owner.model}")
    owner.give("undeploy", "undeployed")
    say(page, "Are you there?")
    expect(page.locator("#chosen [data-status=undeployed]")).to_be_visible()
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    expect(page.get_by_label("Message")).to_have_value("Are you there?")
    page.get_by_role("button", name="Deploy").click()
    page.get_by_label("Max tokens").fill("5")
    page.get_by_role("button", name="Send").click()
    expect(done(page)).to_have_count(2)


def test_a_key_is_shown_once_and_works_in_the_code_example(
    tabs: Tabs, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tabs.open(owner.person, "/models?model=tiny#keys")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Create key").click()
    secret = page.locator("#new-secret").inner_text()
    page.locator("#made").get_by_role("button", name="Copy").click()
    expect(page.locator("#made").get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == secret

    monkeypatch.setenv("ECOLINK_API_KEY", secret)
    page.get_by_role("button", name="Copy: Python").click()
    lines = page.evaluate("navigator.clipboard.readText()")
    assert owner.person.settings.gateway_url in lines
    with redirect_stdout(StringIO()) as printed:
        exec(lines, {})
    assert printed.getvalue()

    page.goto("/datasets")
    page.go_back()
    expect(page.get_by_text(f"eco_…{secret[-4:]}").first).to_be_visible()
    expect(page.locator("#new-secret")).to_have_count(0)
    row = page.locator(".row.key").filter(has_text=secret[-4:])
    row.get_by_role("button", name="Revoke").click()
    question = page.get_by_role("dialog", name="Revoke this key?")
    expect(question.locator("[data-signs-out]")).to_have_count(0)
    question.get_by_role("button", name="Revoke").click()
    expect(page.locator("[data-revoked='1']")).to_be_visible()
    expect(row).to_have_count(0)


def test_revoking_the_key_of_this_session_signs_out(tabs: Tabs, person: EcoLinkUnderTest) -> None:
    page = tabs.open(person, "/models#keys")
    page.get_by_role("button", name="Revoke").click()
    question = page.get_by_role("dialog", name="Revoke this key?")
    expect(question.locator("[data-signs-out]")).to_be_visible()
    expect(question.locator("[data-only-key]")).to_be_visible()
    page.keyboard.press("Escape")
    expect(question).to_be_hidden()
    page.keyboard.press("Enter")  # focus is on the button again
    question.get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
