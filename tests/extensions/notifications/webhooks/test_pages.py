"""The pages of webhooks."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi.testclient import TestClient

from domain.access.rights import KeyRequest
from domain.access.scope import Scope
from extensions.notifications.domain.message import SUBSCRIBED
from tests.builders.platform import Platform
from tests.extensions.notifications.webhooks.conftest import URL, Process
from tests.gateway.web.signed_in import Browser, signed_in

BANNER = 'data-note="disabled-webhooks"'
ALL = [each.value for each in SUBSCRIBED]


@pytest.fixture
def holder(client: TestClient, platform: Platform) -> Browser:
    return signed_in(client, platform.person())


def sent(browser: Browser, path: str, **form: Any) -> str:
    """Post as htmx does. Return the response's text."""
    answer = browser.client.post(f"/webhooks{path}", data=form, headers=browser.htmx)
    assert answer.status_code == 200, answer.text
    return answer.text


def created(browser: Browser, url: str = URL) -> str:
    """Create a webhook on the page. Return its ID."""
    sent(browser, "", url=url, event=ALL)
    return browser.client.get("/api/webhooks").json()["data"][-1]["id"]


def shown(browser: Browser, id: str, query: str = "") -> str:
    answer = browser.client.get(f"/webhooks/{id}{query}")
    assert answer.status_code == 200
    return answer.text


def test_a_secret_is_shown_once(holder: Browser) -> None:
    assert 'data-empty="webhooks"' in holder.client.get("/webhooks").text
    answer = sent(holder, "", url=URL, event=ALL, description="builds")
    found = re.search(r'id="new-secret"[^>]*>(whsec_[^<]+)<', answer)
    assert found is not None
    page = holder.client.get("/webhooks").text
    assert found[1] not in page
    assert "builds" in page
    (webhook,) = holder.client.get("/api/webhooks").json()["data"]
    assert webhook["event_types"] == [], "all types, also later ones"


def test_a_wrong_form_gets_a_notice(holder: Browser) -> None:
    for form in ({"url": "http://example.com/", "event": ALL}, {"event": ALL}, {"url": URL}):
        assert 'role="alert"' in sent(holder, "", **form)
    assert holder.client.get("/api/webhooks").json()["data"] == []


def test_a_webhook_is_changed_disabled_enabled_rotated_and_deleted(holder: Browser) -> None:
    id = created(holder)
    other = "https://example.org/"
    saved = sent(holder, f"/{id}", url=other, event=["balance.low"], description="x")
    assert 'data-note="saved"' in saved
    webhook = holder.client.get(f"/api/webhooks/{id}").json()
    assert (webhook["url"], webhook["event_types"]) == (other, ["balance.low"])
    assert 'data-disabled="owner"' in sent(holder, f"/{id}/disable")
    assert "data-disabled" not in sent(holder, f"/{id}/enable")
    assert "whsec_" in sent(holder, f"/{id}/rotate")
    assert "whsec_" not in shown(holder, id)
    answer = holder.client.post(f"/webhooks/{id}/delete", headers=holder.htmx)
    assert answer.headers["hx-redirect"] == "/webhooks"
    assert holder.client.get(f"/webhooks/{id}").status_code == 404


def test_deliveries_are_shown_and_replayed(holder: Browser, process: Process) -> None:
    id = created(holder)
    assert "every 2s" in sent(holder, f"/{id}/test"), "the page waits for the result"
    process.attempt(404, "Status 404.")
    process.record(id, "evt_1")
    process.exhaust()
    page = shown(holder, id)
    assert 'data-disabled="failing"' in page
    assert "EcoLink disabled 1 of your webhooks" in holder.client.get("/webhooks").text
    assert "every 2s" not in page
    assert page.count('data-status="failed"') == 2
    assert "the response" in page
    assert 'data-status="failed"' not in shown(holder, id, "?status=delivered")
    assert "EcoLink sends 1 failed delivery again" in sent(
        holder, f"/{id}/replay", since="2020-01-01T00:00"
    )
    assert 'role="alert"' in sent(holder, f"/{id}/replay", since="soon")
    (delivery, _) = holder.client.get(f"/api/webhooks/{id}/deliveries").json()["data"]
    again = sent(holder, f"/{id}/deliveries/{delivery['id']}/replay")
    assert 'data-code="wrong_state"' in again, "it is pending already"


def test_each_page_shows_that_ecolink_disabled_a_webhook(holder: Browser, process: Process) -> None:
    first, second = created(holder), created(holder)
    sent(holder, f"/{second}/disable")
    assert BANNER not in holder.client.get("/billing").text, "its owner disabled it"
    process.record(first, "evt_1")
    process.attempt(410, "Status 410.")
    page = holder.client.get("/billing").text
    assert BANNER in page
    assert f'<a href="/webhooks/{first}">Show webhook</a>' in page
    assert BANNER not in shown(holder, first), "the page of the webhook says more"
    sent(holder, f"/{first}/enable")
    assert BANNER not in holder.client.get("/billing").text


def test_a_key_without_the_scope_keys_reads_and_changes_nothing(
    holder: Browser, client: TestClient, platform: Platform
) -> None:
    id = created(holder)
    rights = KeyRequest(scopes=[Scope.READ])
    reader = signed_in(client, platform.key(holder.person.account_id, rights))
    page = shown(reader, id)
    assert "https://example.com/…" in page
    assert "token=x" not in page
    assert 'data-code="missing_scope"' in sent(reader, f"/{id}/test")
