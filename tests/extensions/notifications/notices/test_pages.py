"""The page of notices."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.builders.platform import Platform
from tests.extensions.notifications.notices.conftest import MailProcess
from tests.gateway.web.signed_in import Browser, signed_in

ADA = "ada@example.com"


@pytest.fixture
def holder(client: TestClient, platform: Platform) -> Browser:
    return signed_in(client, platform.person())


def sent(browser: Browser, path: str = "", **form: Any) -> str:
    """Post as htmx does. Return the response's text."""
    answer = browser.client.post(f"/notices{path}", data=form, headers=browser.htmx)
    assert answer.status_code == 200, answer.text
    return answer.text


def shown(browser: Browser) -> str:
    return browser.client.get("/notices").text


def test_an_address_is_set_confirmed_tested_and_deleted(holder: Browser, mail: MailProcess) -> None:
    assert 'data-empty="notices"' in shown(holder)
    saved = sent(holder, email=ADA, kind=["balance.low", "balance.depleted"])
    assert 'data-note="unconfirmed"' in saved
    assert saved.count("checked") == 2
    mail.work()
    assert 'data-note="done"' in sent(holder, "/confirmation")
    mail.work()
    confirmed = holder.client.post(mail.link("confirm"))
    assert "Address confirmed" in confirmed.text
    assert 'data-note="unconfirmed"' not in shown(holder)
    assert "every 5s" in sent(holder, "/test"), "the page waits for the result"
    mail.work()
    newest = holder.client.get("/notices/newest", headers=holder.htmx).text
    assert 'data-status="sent"' in newest
    assert "every 5s" not in newest
    holder.client.post(mail.link("unsubscribe"))
    assert 'data-note="unsubscribed"' in shown(holder)
    answer = holder.client.post("/notices/delete", headers=holder.htmx)
    assert answer.headers["hx-redirect"] == "/notices"
    assert f'value="{ADA}"' not in shown(holder)


def test_a_wrong_address_gets_a_notice(holder: Browser) -> None:
    for email in ("", "ada", "ada@example.com,eve@example.com"):
        assert 'role="alert"' in sent(holder, email=email, kind=["balance.low"])


def test_a_used_link_shows_what_to_do(holder: Browser, mail: MailProcess) -> None:
    sent(holder, email=ADA)
    mail.work()
    link = mail.link("confirm")
    holder.client.post(link)
    holder.client.cookies.clear()
    again = holder.client.get(link)
    assert again.status_code == 404
    assert "Request another link" in again.text


def test_the_page_says_that_email_is_off(
    client: TestClient, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = signed_in(client, platform.person())
    monkeypatch.delenv("ECOLINK_SMTP_HOST")
    assert 'data-note="off"' in shown(holder)
    refused = sent(holder, email=ADA, kind=["balance.low"])
    assert "your operator has not set up a mail server" in refused
