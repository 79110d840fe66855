"""API keys and code snippets on the models page."""

from __future__ import annotations

import json
import re
import shlex
from html import unescape
from typing import Any

import httpx
import openai
import pytest
from fastapi.testclient import TestClient

from gateway.http.sessions import COOKIE
from tests.builders.platform import BASE_MODEL, Platform
from tests.gateway.web.signed_in import Browser


def create_key(browser: Browser) -> tuple[str, str]:
    """Create a key and return its secret and the response."""
    form = {"name": "laptop", "scope": ["read", "train", "deploy", "billing", "keys"]}
    answer = browser.client.post("/models/keys", data=form, headers=browser.htmx)
    found = re.search(r'id="new-secret"[^>]*>(eco_[^<]+)<', answer.text)
    assert found is not None
    assert answer.headers["cache-control"] == "private, no-store"
    return found[1], answer.text


def snippet(browser: Browser, which: str, model: str) -> str:
    page = browser.client.get(f"/models/snippets?model={model}").text
    found = re.search(rf'id="snippet-{which}">(.*?)</code>', page, re.DOTALL)
    assert found is not None
    return unescape(found[1])


def test_a_secret_is_shown_once(browser: Browser) -> None:
    secret, answer = create_key(browser)
    assert f"eco_…{secret[-4:]}" in answer
    page = browser.client.get("/models").text
    assert secret not in page
    assert f"eco_…{secret[-4:]}" in page
    assert page.count("created by an operator") == 1  # the first key, of the fixture
    fresh = {"authorization": f"Bearer {secret}"}
    browser.client.cookies.clear()
    assert browser.client.get("/api/account", headers=fresh).status_code == 200


def test_a_key_of_no_session_is_revoked(browser: Browser) -> None:
    page = browser.client.get("/models").text
    assert page.count("data-current") == 1
    assert "data-only-key" in page
    secret, answer = create_key(browser)
    assert "data-only-key" not in answer
    assert answer.count("data-signs-out") == 1
    fresh = {"authorization": f"Bearer {secret}"}
    keys = browser.client.get("/api/keys").json()["data"]
    (made,) = [each for each in keys if not each["current"]]
    revoked = browser.client.post(f"/models/keys/{made['id']}/revoke", headers=browser.htmx)
    assert 'data-revoked="1"' in revoked.text
    assert "hx-redirect" not in revoked.headers
    assert browser.client.get("/api/account", headers=fresh).status_code == 401


def test_revoking_the_key_of_the_session_signs_out(browser: Browser) -> None:
    path = f"/models/keys/{browser.person.key_id}/revoke"
    revoked = browser.client.post(path, headers=browser.htmx)
    assert revoked.headers["hx-redirect"] == "/sign-in"
    assert COOKIE not in browser.client.cookies
    assert browser.client.get("/api/account").status_code == 401


def test_another_accounts_key_is_not_revoked(browser: Browser, platform: Platform) -> None:
    other = platform.person()
    answer = browser.client.post(f"/models/keys/{other.key_id}/revoke", headers=browser.htmx)
    assert 'data-code="not_found"' in answer.text
    own = {"authorization": f"Bearer {other.key}"}
    assert browser.client.get("/api/account", headers=own).status_code == 200


def test_a_key_has_a_name_scopes_and_an_expiry(browser: Browser) -> None:
    form = {"name": "CI <1>", "days": "30", "role": "member", "scope": ["read", "billing"]}
    answer = browser.client.post("/models/keys", data=form, headers=browser.htmx)
    assert "CI &lt;1&gt;" in answer.text
    (made,) = [
        each for each in browser.client.get("/api/keys").json()["data"] if not each["current"]
    ]
    assert (made["role"], made["scopes"]) == ("member", ["read"])
    page = browser.client.get("/models").text
    assert re.search(r"read · expires <time", page)
    assert "not used yet" in page
    assert "all scopes · does not expire" in page


def test_a_key_without_a_scope_is_refused(browser: Browser) -> None:
    answer = browser.client.post("/models/keys", data={"name": "x"}, headers=browser.htmx)
    assert "Choose a scope" in answer.text
    # The key of the session may not be visible yet.
    assert all(each["current"] for each in browser.client.get("/api/keys").json()["data"])


def test_creating_a_key_needs_a_csrf_token(browser: Browser) -> None:
    assert browser.client.post("/models/keys").status_code == 403


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, client: TestClient) -> list[dict[str, Any]]:
    """Requests of the `openai` package, answered without a network."""
    requests: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append({"url": str(request.url), "key": request.headers["authorization"]})
        requests[-1] |= {"body": json.loads(request.content)}
        message = {"role": "assistant", "content": "Hello to you!"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        common = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
        return httpx.Response(200, json=common | {"choices": [choice]})

    transport = httpx.Client(transport=httpx.MockTransport(answer))
    original = openai.OpenAI

    def connected(**options: Any) -> openai.OpenAI:
        return original(**options, http_client=transport)

    monkeypatch.setattr(openai, "OpenAI", connected)
    monkeypatch.setenv("ECOLINK_API_KEY", "eco_of-the-test")
    return requests


def test_the_code_snippets_run(
    browser: Browser,
    platform: Platform,
    asked: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    platform.base_model()
    platform.project()
    exec(snippet(browser, "python", BASE_MODEL), {})
    assert capsys.readouterr().out == "Hello to you!\n"
    (request,) = asked
    assert request["url"] == "http://testserver/v1/chat/completions"
    assert request["key"] == "Bearer eco_of-the-test"
    assert request["body"]["model"] == BASE_MODEL
    words = shlex.split(snippet(browser, "curl", BASE_MODEL).replace("\\\n", " "))
    assert words[:2] == ["curl", "http://testserver/v1/chat/completions"]
    assert json.loads(words[-1]) == request["body"]
    assert "Authorization: Bearer $ECOLINK_API_KEY" in words


def test_snippets_of_a_model_that_is_not_deployed(browser: Browser, platform: Platform) -> None:
    platform.base_model()
    platform.project()
    deployed = browser.client.get(f"/models/snippets?model={BASE_MODEL}").text
    assert "data-undeployed" not in deployed
    assert "data-missing" in browser.client.get("/models/snippets?model=ft:none").text
