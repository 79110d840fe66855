"""Sessions: start, permissions and end."""

from __future__ import annotations

from collections.abc import MutableMapping
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from gateway.http.sessions import COOKIE
from infrastructure.profiles import add_account_name
from infrastructure.sessions import MAX_SESSION_DAYS, add_sign_in_link
from infrastructure.settings import Settings
from infrastructure.store import connect
from tests.builders.platform import Person, Platform
from tests.gateway.web.signed_in import Browser


def sign_in(client: TestClient, key: str, **fields: str) -> int:
    answer = client.post("/sign-in", data={"api_key": key} | fields, follow_redirects=False)
    return answer.status_code


def test_sign_in_returns_to_the_requested_page(client: TestClient, platform: Platform) -> None:
    asked = client.get("/datasets?status=ready", follow_redirects=False)
    assert asked.status_code == 303
    assert asked.headers["location"] == "/sign-in?next=/datasets%3Fstatus%3Dready"
    page = client.get(asked.headers["location"])
    assert 'value="/datasets?status=ready"' in page.text
    answer = client.post(
        "/sign-in",
        data={"api_key": platform.person().key, "next_page": "/datasets?status=ready"},
        follow_redirects=False,
    )
    assert answer.headers["location"] == "/datasets?status=ready"


@pytest.mark.parametrize(
    ("shown", "leads_to"),
    [
        (
            "http://testserver/billing?kind=minutes#ledger",
            "/sign-in?next=/billing%3Fkind%3Dminutes",
        ),
        ("http://testserver/", "/sign-in"),
        ("http://[", "/sign-in"),
        (None, "/sign-in"),
    ],
)
def test_sign_in_after_a_session_ended_returns_to_the_page(
    client: TestClient, shown: str | None, leads_to: str
) -> None:
    headers = {"hx-request": "true"} | ({"hx-current-url": shown} if shown else {})
    answer = client.get("/billing/now", headers=headers)
    assert answer.headers["hx-redirect"] == leads_to


@pytest.mark.parametrize("elsewhere", ["https://evil.example", "//evil.example", "/\\evil.example"])
def test_sign_in_never_redirects_to_another_site(
    client: TestClient, platform: Platform, elsewhere: str
) -> None:
    answer = client.post(
        "/sign-in",
        data={"api_key": platform.person().key, "next_page": elsewhere},
        follow_redirects=False,
    )
    assert answer.headers["location"] == "/fine-tune"


def test_the_cookie_is_kept_from_scripts_and_other_sites(
    client: TestClient, platform: Platform
) -> None:
    answer = client.post(
        "/sign-in", data={"api_key": platform.person().key}, follow_redirects=False
    )
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie


def test_a_wrong_key_starts_no_session(client: TestClient) -> None:
    answer = client.post("/sign-in", data={"api_key": "eco_wrong"})
    assert "unknown or was revoked" in answer.text
    assert COOKIE not in client.cookies


def test_another_site_cannot_sign_a_browser_in(client: TestClient, platform: Platform) -> None:
    answer = client.post(
        "/sign-in",
        data={"api_key": platform.person().key},
        headers={"origin": "https://evil.example"},
    )
    assert answer.status_code == 403
    assert COOKIE not in client.cookies


def test_a_session_reads_and_commands_only_with_its_token(browser: Browser) -> None:
    assert browser.client.get("/api/account").status_code == 200
    assert browser.client.post("/api/keys").status_code == 403
    wrong = {"x-csrf-token": "wrong"}
    assert browser.client.post("/api/keys", headers=wrong).status_code == 403
    assert browser.client.post("/api/keys", headers=browser.htmx).status_code == 201


def test_a_plain_form_shows_the_token_in_a_field(browser: Browser) -> None:
    assert browser.client.post("/sign-out", data={}).status_code == 403
    answer = browser.client.post("/sign-out", data={"csrf_token": browser.csrf_token})
    assert answer.status_code == 200
    assert browser.client.get("/api/account").status_code == 401


@pytest.mark.parametrize("path", ["/api/datasets", "/v1/files", "/sign-out", "/nowhere"])
def test_no_form_is_read_without_a_session(client: TestClient, path: str) -> None:
    """An upload has no size limit until its user is known."""
    assert asked_with_an_endless_form(client, path, {"cookie": f"{COOKIE}=x"}) == 0


@pytest.mark.parametrize("path", ["/api/datasets", "/v1/files"])
def test_an_upload_shows_the_token_in_its_header_only(browser: Browser, path: str) -> None:
    cookie = {"cookie": f"{COOKIE}={browser.client.cookies[COOKIE]}"}
    assert asked_with_an_endless_form(browser.client, path, cookie) == 0


def asked_with_an_endless_form(client: TestClient, path: str, headers: dict[str, str]) -> int:
    """Return the parts of a form's body that were read before the refusal."""
    read, statuses = 0, list[int]()
    headers = headers | {"host": "testserver", "content-type": "application/x-www-form-urlencoded"}
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "scheme": "http",
        "server": ("testserver", 80),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }

    async def receive() -> dict[str, object]:
        nonlocal read
        read += 1
        assert read < 100, "the body is read to its end"
        return {"type": "http.request", "body": b"a" * 1000, "more_body": True}

    async def send(message: MutableMapping[str, Any]) -> None:
        statuses.append(message.get("status", 0))

    assert client.portal is not None
    client.portal.call(client.app, scope, receive, send)
    assert statuses[0] in (303, 401, 403, 404)
    return read


def test_a_session_ends_with_its_key(browser: Browser, platform: Platform) -> None:
    platform.revoke(browser.person)
    assert browser.client.get("/api/account").status_code == 401


def test_the_sign_in_page_reports_an_ended_session(browser: Browser, platform: Platform) -> None:
    ended = 'data-note="session-ended"'
    assert ended not in browser.client.get("/sign-in").text
    platform.revoke(browser.person)
    assert ended in browser.client.get("/datasets").text
    browser.client.cookies.set(COOKIE, "of long ago")
    assert ended in browser.client.get("/datasets").text
    browser.client.cookies.clear()
    assert ended not in browser.client.get("/datasets").text


def test_a_key_in_a_header_needs_no_token(client: TestClient, platform: Platform) -> None:
    person = platform.person()
    sign_in(client, person.key)
    assert client.post("/api/keys", headers=person.headers).status_code == 201


def link_for(settings: Settings, person: Person) -> str:
    with connect(settings) as connection:
        return f"/sign-in/{add_sign_in_link(connection, person.key_id)}"


def test_a_link_works_once(client: TestClient, platform: Platform, settings: Settings) -> None:
    person = platform.person()
    link = link_for(settings, person)
    answer = client.post(link, follow_redirects=False)
    assert answer.headers["location"] == "/fine-tune"
    assert client.get("/api/account").json()["id"] == str(person.account_id)
    client.cookies.clear()
    for asked in (client.get, client.post):
        assert 'data-note="sign-in-refused"' in asked(link).text
        assert client.get("/api/account").status_code == 401


def test_loading_a_link_does_not_use_it(
    client: TestClient, platform: Platform, settings: Settings
) -> None:
    """Chat and mail programs load the links that they show."""
    person = platform.person()
    with connect(settings) as connection:
        add_account_name(connection, person.account_id, "Ada & Co")
    link = link_for(settings, person)
    for _ in range(2):
        page = client.get(link)
        assert "Sign in as Ada &amp; Co" in page.text
        assert COOKIE not in client.cookies
    assert client.post(link, follow_redirects=False).status_code == 303


def test_a_link_of_a_revoked_key_is_refused(
    client: TestClient, platform: Platform, settings: Settings
) -> None:
    person = platform.person()
    link = link_for(settings, person)
    platform.revoke(person)
    for asked in (client.get, client.post):
        assert 'data-note="sign-in-refused"' in asked(link).text
        assert COOKIE not in client.cookies


def test_another_site_cannot_use_a_link(
    client: TestClient, platform: Platform, settings: Settings
) -> None:
    link = link_for(settings, platform.person())
    evil = {"origin": "https://evil.example"}
    assert client.post(link, headers=evil).status_code == 403
    assert COOKIE not in client.cookies
    assert client.post(link, follow_redirects=False).status_code == 303


def test_a_second_sign_in_ends_the_first_session(
    browser: Browser, platform: Platform, settings: Settings
) -> None:
    before, other = browser.client.cookies[COOKIE], platform.person()
    browser.client.post(link_for(settings, other), follow_redirects=False)
    assert browser.client.get("/api/account").json()["id"] == str(other.account_id)
    assert browser.client.get("/api/account", headers=_only(before)).status_code == 401


def test_no_link_is_in_the_log(
    client: TestClient, platform: Platform, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    link = link_for(settings, platform.person())
    with caplog.at_level("INFO", "gateway"):
        client.get(link)
        client.post(link)
    said = [each.getMessage() for each in caplog.records if each.name == "gateway"]
    assert len([each for each in said if "/sign-in/…" in each]) == 2
    assert link not in "".join(said)


def test_a_token_is_replaced_and_the_old_one_ends(browser: Browser, settings: Settings) -> None:
    old = browser.client.cookies[COOKIE]
    _later(settings, minutes=20)
    browser.client.get("/datasets")
    new = browser.client.cookies[COOKIE]
    assert new != old

    # The old token is valid until the new one is used, because the response may be lost.
    _later(settings, minutes=20)
    assert browser.client.get("/api/account", headers=_only(old)).status_code == 200
    assert browser.client.get("/api/account", headers=_only(new)).status_code == 200
    assert browser.client.get("/api/account", headers=_only(old)).status_code == 200
    _later(settings, minutes=2)
    assert browser.client.get("/api/account", headers=_only(old)).status_code == 401
    assert browser.client.get("/api/account", headers=_only(new)).status_code == 200


def test_an_idle_session_ends(browser: Browser, settings: Settings) -> None:
    _later(settings, minutes=8 * 24 * 60)
    assert browser.client.get("/api/account").status_code == 401


def test_a_used_session_ends_at_its_maximum_age(browser: Browser, settings: Settings) -> None:
    for day in range(1, MAX_SESSION_DAYS):
        _later(settings, minutes=24 * 60)
        assert browser.client.get("/datasets", follow_redirects=False).status_code == 200, day
    _later(settings, minutes=24 * 60)
    assert browser.client.get("/datasets", follow_redirects=False).status_code == 303


def _only(token: str) -> dict[str, str]:
    return {"cookie": f"{COOKIE}={token}"}


def _later(settings: Settings, minutes: int) -> None:
    """Let time pass for all sessions."""
    with connect(settings) as connection:
        connection.execute(
            "UPDATE web_sessions SET rotated_at = rotated_at - %(by)s, "
            "shown_at = shown_at - %(by)s, expires_at = expires_at - %(by)s, "
            "begun_at = begun_at - %(by)s",
            {"by": timedelta(minutes=minutes)},
        )
