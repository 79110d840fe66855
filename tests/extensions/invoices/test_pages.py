"""The pages with invoices, for account holders and for auditors."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi.testclient import TestClient

from domain.access.role import Role
from extensions.invoices.invoice_file import verify_file
from infrastructure.accounts.profiles import add_account_name
from infrastructure.postgres.store import connect
from tests.builders.platform import Person, Platform
from tests.extensions.invoices.bills import PUBLIC
from tests.gateway.web.html import Node, read_html
from tests.gateway.web.signed_in import Browser, signed_in

OWN, ALL = "/billing/invoices", "/audit/invoices"
MONTH = f"{datetime.now(UTC):%Y-%m}"


@pytest.fixture
def holder(client: TestClient, platform: Platform) -> Person:
    """A person with $20 since now, whose account is named `ada`."""
    del client  # comes first: a gateway stops if its log is emptied
    person = Platform(platform.settings, platform.log).person(dollars=20)
    with connect(platform.settings) as connection:
        add_account_name(connection, person.account_id, "ada")
    return person


def sent(browser: Browser, path: str, **form: str) -> Any:
    form["csrf_token"] = browser.htmx["x-csrf-token"]
    return browser.client.post(path, data=form, follow_redirects=False)


def listed(browser: Browser, path: str) -> Node:
    answer = browser.client.get(path)
    assert answer.status_code == 200
    return read_html(answer.text)["invoices"]


def statuses(table: Node) -> list[str]:
    rows = (each.attributes.get("data-status") for each in table.all())
    return [each for each in rows if each]


def links(table: Node) -> list[str]:
    found = (each.attributes.get("href") or "" for each in table.all())
    return [each for each in found if "/invoice." in each]


def polls(table: Node) -> bool:
    return any(each.attributes.get("hx-trigger") for each in table.all())


def test_the_owner_requests_an_invoice_and_downloads_its_files(
    client: TestClient, holder: Person, issue: Callable[[], None]
) -> None:
    browser = signed_in(client, holder)
    assert OWN in client.get("/billing").text
    assert statuses(listed(browser, OWN)) == []
    answer = sent(browser, OWN, month=MONTH)
    assert (answer.status_code, answer.headers["location"]) == (303, OWN)
    waiting = listed(browser, OWN)
    assert statuses(waiting) == ["preparing"]
    assert polls(waiting)
    assert links(waiting) == []

    issue()
    part = client.get(OWN, headers=browser.htmx)
    assert "<main" not in part.text
    ready = read_html(part.text)["invoices"]
    assert statuses(ready) == ["ready"]
    assert not polls(ready)
    assert [each.rpartition(".")[2] for each in links(ready)] == ["pdf", "json"]
    for link in links(ready):
        assert verify_file(client.get(link).content, PUBLIC).failures == []


def test_an_auditor_requests_an_invoice_of_any_account_by_name(
    client: TestClient, platform: Platform, holder: Person, issue: Callable[[], None]
) -> None:
    browser = signed_in(client, platform.person(Role.AUDITOR))
    assert ALL in client.get("/audit").text
    assert sent(browser, ALL, account="ada", month=MONTH).status_code == 303
    issue()
    table = listed(browser, ALL)
    assert statuses(table) == ["ready"]
    assert "ada" in table.text
    invoice = verify_file(client.get(links(table)[0]).content, PUBLIC).invoice
    assert invoice is not None
    assert invoice.account_id == holder.account_id


@pytest.mark.parametrize(
    ("form", "field", "problem"),
    [
        ({"month": "2999-01"}, "month", "has not begun"),
        ({"first": "soon", "last": "2026-11-01"}, "first", "is not a day"),
        ({"first": "2026-11-02", "last": "2026-11-01"}, "last", "before the first day"),
        ({}, "month", "either a month"),
        ({"month": "2026-99"}, "month", "is not a month"),
    ],
)
def test_a_wrong_field_is_marked_and_keeps_its_value(
    client: TestClient, holder: Person, form: dict[str, str], field: str, problem: str
) -> None:
    browser = signed_in(client, holder)
    answer = sent(browser, OWN, **form)
    page = read_html(answer.text)
    assert page[field].attributes["aria-invalid"] == "true"
    assert problem in page["invoice-problem"].text
    if "first" in form:
        assert page["first"].attributes["value"] == form["first"]
        assert page["last"].attributes["value"] == form["last"]
    assert statuses(page["invoices"]) == []


def test_an_unknown_account_is_marked(client: TestClient, platform: Platform) -> None:
    browser = signed_in(client, platform.person(Role.OPERATOR))
    for name in ("nobody", "", "00000000-0000-0000-0000-000000000009"):
        page = read_html(sent(browser, ALL, account=name, month=MONTH).text)
        assert page["account"].attributes["aria-invalid"] == "true", name
        assert "Unknown account" in page["invoice-problem"].text


def test_an_owner_cannot_see_the_invoices_of_all_accounts(
    client: TestClient, holder: Person
) -> None:
    browser = signed_in(client, holder)
    assert client.get(ALL).status_code == 403
    assert sent(browser, ALL, account="ada", month=MONTH).status_code == 403
