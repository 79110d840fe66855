"""Sessions: start, permissions and end."""

from __future__ import annotations

from collections.abc import MutableMapping
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from gateway.http.sessions import COOKIE
from infrastructure.accounts.profiles import add_account_name
from infrastructure.accounts.sessions import MAX_SESSION_DAYS, add_sign_in_link
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.builders.platform import Person, Platform
from tests.gateway.web.signed_in import Browser

REFUSED, ENDED = 'data-note="sign-in-refused"', 'data-note="session-ended"'


def sign_in(
    client: TestClient, platform: Platform, headers: dict[str, str] | None = None, **fields: str
) -> Any:
    """Send the form of the sign-in page."""
    form = {"api_key": platform.person().key} | fields
    return client.post("/sign-in", data=form, headers=headers, follow_redirects=False)


def account_of(client: TestClient, token: str | None = None) -> int:
    """Return the status of a request with the client's session, or only with a token."""
    headers = None if token is None else {"cookie": f"{COOKIE}={token}"}
    return client.get("/api/account", headers=headers).status_code


def test_sign_in_returns_to_the_requested_page(client: TestClient, platform: Platform) -> None:
    asked = client.get("/datasets?status=ready", follow_redirects=False)
    assert asked.status_code == 303
    assert asked.headers["location"] == "/sign-in?next=/datasets%3Fstatus%3Dready"
    page = client.get(asked.headers["location"])
    assert 'value="/datasets?status=ready"' in page.text
    answer = sign_in(client, platform, next_page="/datasets?status=ready")
    assert answer.headers["location"] == "/datasets?status=ready"
    cookie = answer.headers["set-cookie"].lower()
    assert {"httponly", "samesite=lax"} <= set(cookie.split("; "))


@pytest.mark.parametrize(
    ("shown", "leads_to"),
    [
        ("http://testserver/billing?kind=minutes#ledger", "?next=/billing%3Fkind%3Dminutes"),
        ("http://testserver/", ""),
        ("http://[", ""),
        (None, ""),
    ],
)
def test_sign_in_after_a_session_ended_returns_to_the_page(
    client: TestClient, shown: str | None, leads_to: str
) -> None:
    headers = {"hx-request": "true"} | ({"hx-current-url": shown} if shown else {})
    answer = client.get("/billing/now", headers=headers)
    assert answer.headers["hx-redirect"] == f"/sign-in{leads_to}"


def test_sign_in_never_redirects_to_another_site(client: TestClient, platform: Platform) -> None:
    for elsewhere in ("https://evil.example", "//evil.example", "/\\evil.example"):
        answer = sign_in(client, platform, next_page=elsewhere)
        assert answer.headers["location"] == "/fine-tune"


def test_a_refused_sign_in_starts_no_session(client: TestClient, platform: Platform) -> None:
    assert REFUSED in sign_in(client, platform, api_key="eco_wrong").text
    evil = {"origin": "https://evil.example"}
    assert sign_in(client, platform, headers=evil).status_code == 403
    assert COOKIE not in client.cookies


def test_a_command_of_a_session_needs_its_token(browser: Browser) -> None:
    assert account_of(browser.client) == 200
    for headers, status in (({}, 403), ({"x-csrf-token": "wrong"}, 403), (browser.htmx, 201)):
        assert browser.client.post("/api/keys", headers=headers).status_code == status


def test_a_plain_form_sends_the_token_in_a_field(browser: Browser) -> None:
    assert browser.client.post("/sign-out", data={}).status_code == 403
    answer = browser.client.post("/sign-out", data={"csrf_token": browser.csrf_token})
    assert answer.status_code == 200
    assert account_of(browser.client) == 401


def test_a_key_in_a_header_needs_no_token(browser: Browser) -> None:
    assert browser.client.post("/api/keys", headers=browser.person.headers).status_code == 201


def test_no_form_is_read_without_a_session(client: TestClient) -> None:
    """An upload has no size limit until its user is known."""
    for path in ("/api/datasets", "/v1/files", "/sign-out", "/nowhere"):
        assert parts_read(client, path, f"{COOKIE}=x") == 0


def test_an_upload_sends_the_token_in_its_header_only(browser: Browser) -> None:
    cookie = f"{COOKIE}={browser.client.cookies[COOKIE]}"
    for path in ("/api/datasets", "/v1/files"):
        assert parts_read(browser.client, path, cookie) == 0


def parts_read(client: TestClient, path: str, cookie: str) -> int:
    """Return the parts of an endless form that were read before the refusal."""
    read, statuses = 0, list[int]()
    headers = {"host": "testserver", "content-type": "application/x-www-form-urlencoded"}
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "scheme": "http",
        "server": ("testserver", 80),
        "headers": [
            (name.encode(), value.encode()) for name, value in {**headers, "cookie": cookie}.items()
        ],
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
    assert ENDED not in browser.client.get("/sign-in").text
    platform.revoke(browser.person)
    assert account_of(browser.client) == 401
    assert ENDED in browser.client.get("/datasets").text
    browser.client.cookies.set(COOKIE, "of long ago")
    assert ENDED in browser.client.get("/datasets").text
    browser.client.cookies.clear()
    assert ENDED not in browser.client.get("/datasets").text


def link_for(settings: Settings, person: Person) -> str:
    with connect(settings) as connection:
        return f"/sign-in/{add_sign_in_link(connection, person.key_id)}"


def test_a_link_works_once(
    client: TestClient, platform: Platform, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    person = platform.person()
    with connect(settings) as connection:
        add_account_name(connection, person.account_id, "Ada & Co")
    link = link_for(settings, person)
    with caplog.at_level("INFO", "gateway"):
        for _ in range(2):  # chat and mail programs load the links that they show
            assert "Sign in as Ada &amp; Co" in client.get(link).text
            assert COOKIE not in client.cookies
        evil = {"origin": "https://evil.example"}
        assert client.post(link, headers=evil).status_code == 403
        answer = client.post(link, follow_redirects=False)
    assert answer.headers["location"] == "/fine-tune"
    assert client.get("/api/account").json()["id"] == str(person.account_id)
    logged = [each.getMessage() for each in caplog.records if each.name == "gateway"]
    assert len([each for each in logged if "/sign-in/…" in each]) == 4
    assert link not in "".join(logged)
    client.cookies.clear()
    is_refused(client, link)


def is_refused(client: TestClient, link: str) -> None:
    for asked in (client.get, client.post):
        assert REFUSED in asked(link).text
        assert COOKIE not in client.cookies


def test_a_link_of_a_revoked_key_is_refused(
    client: TestClient, platform: Platform, settings: Settings
) -> None:
    person = platform.person()
    link = link_for(settings, person)
    platform.revoke(person)
    is_refused(client, link)


def test_a_second_sign_in_ends_the_first_session(
    browser: Browser, platform: Platform, settings: Settings
) -> None:
    before, other = browser.client.cookies[COOKIE], platform.person()
    browser.client.post(link_for(settings, other), follow_redirects=False)
    assert browser.client.get("/api/account").json()["id"] == str(other.account_id)
    assert account_of(browser.client, before) == 401


def test_a_token_is_replaced_and_the_old_one_ends(browser: Browser, settings: Settings) -> None:
    client, old = browser.client, browser.client.cookies[COOKIE]
    let_pass(settings, minutes=20)
    client.get("/datasets")
    new = client.cookies[COOKIE]
    assert new != old

    # The old token is valid until the new one is used, because the response may be lost.
    let_pass(settings, minutes=20)
    assert [account_of(client, token) for token in (old, new, old)] == [200, 200, 200]
    let_pass(settings, minutes=2)
    assert [account_of(client, token) for token in (old, new)] == [401, 200]


def test_an_idle_session_ends(browser: Browser, settings: Settings) -> None:
    let_pass(settings, minutes=8 * 24 * 60)
    assert account_of(browser.client) == 401


def test_a_used_session_ends_at_its_maximum_age(browser: Browser, settings: Settings) -> None:
    for day in range(1, MAX_SESSION_DAYS):
        let_pass(settings, minutes=24 * 60)
        assert browser.client.get("/datasets", follow_redirects=False).status_code == 200, day
    let_pass(settings, minutes=24 * 60)
    assert browser.client.get("/datasets", follow_redirects=False).status_code == 303


def let_pass(settings: Settings, minutes: int) -> None:
    """Let time pass for all sessions."""
    with connect(settings) as connection:
        connection.execute(
            "UPDATE web_sessions SET rotated_at = rotated_at - %(by)s, "
            "shown_at = shown_at - %(by)s, expires_at = expires_at - %(by)s, "
            "begun_at = begun_at - %(by)s",
            {"by": timedelta(minutes=minutes)},
        )
