"""The pages of all accounts and of one account."""

from __future__ import annotations

import re
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient

from domain.access.role import Role
from infrastructure.profiles import add_account_name
from infrastructure.settings import Settings
from infrastructure.store import connect
from tests.builders.platform import Person, Platform
from tests.gateway.ops.pages import row, shown
from tests.gateway.web.signed_in import Browser, signed_in


@pytest.fixture
def ada(platform: Platform, settings: Settings) -> Person:
    person = platform.person(dollars=20)
    with connect(settings) as connection:
        add_account_name(connection, person.account_id, "ada")
    platform.project()
    return person


def sent(browser: Browser, path: str, **form: str) -> str:
    return browser.client.post(path, data=form, headers=browser.htmx).text


def test_all_accounts_are_listed(operator: Browser, platform: Platform, ada: Person) -> None:
    poor = platform.person(dollars=1)
    platform.spend(poor)
    platform.project()
    page = shown(operator, "/ops/accounts")
    ok = "ada owner sufficient $20.00 $0.00 $20.00"
    assert row(page, f'data-account="{ada.account_id}"') == ok
    assert "$0.00 $0.00 $0.00" in row(page, f'data-account="{poor.account_id}"')
    first, *later = re.findall(r'data-account="([^"]+)"', page)
    page = shown(operator, f"/ops/accounts?after={first}")
    assert re.findall(r'data-account="([^"]+)"', page) == later
    assert operator.client.get(f"/ops/accounts?after={uuid4()}").status_code == 404


def test_an_account_is_found_by_its_name_or_id(operator: Browser, ada: Person) -> None:
    for text in ("ada", str(ada.account_id)):
        answer = operator.client.get(f"/ops/accounts?name={text}", follow_redirects=False)
        assert answer.headers["location"] == f"/ops/accounts/{ada.account_id}"
    assert "data-unknown" in shown(operator, "/ops/accounts?name=nobody")
    assert operator.client.get(f"/ops/accounts/{uuid4()}").status_code == 404


def test_a_credit_and_a_payment_are_added_once(operator: Browser, ada: Person) -> None:
    path = f"/ops/accounts/{ada.account_id}"
    assert "data-done" not in shown(operator, path)
    for _ in range(2):
        page = sent(operator, f"{path}/credits", amount="5.00", reference="apology")
        assert "Granted $5.00. The balance is $25.00." in page
    page = sent(operator, f"{path}/top-ups", amount="10", reference="transfer 7")
    assert "Confirmed $10.00. The balance is $35.00." in page
    for form in ({"amount": "5", "reference": ""}, {"amount": "many", "reference": "x"}):
        for action in ("credits", "top-ups"):
            assert 'role="alert"' in sent(operator, f"{path}/{action}", **form)
    assert "$35.00" in shown(operator, path)


def test_an_auditor_reads_accounts_and_changes_nothing(
    client: TestClient, platform: Platform, ada: Person
) -> None:
    auditor = signed_in(client, platform.person(Role.AUDITOR))
    path = f"/ops/accounts/{ada.account_id}"
    assert "ada" in shown(auditor, "/ops/accounts")
    for action in ("credits", "top-ups"):
        assert 'role="alert"' in sent(auditor, f"{path}/{action}", amount="5", reference="x")
    assert "$20.00" in shown(auditor, path)
