"""The pages of all accounts and of one account."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient

from domain.access.rights import KeyRequest
from domain.access.role import Role
from domain.billing.auto_top_up import SavedCard
from domain.billing.meter import Meter
from domain.core.aggregate import because
from domain.use_cases.auto_top_ups import AutoToppingUp
from gateway.accounts import service
from infrastructure.accounts.profiles import add_account_name
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.builders.platform import Person, Platform
from tests.gateway.jobs.owners import Owner
from tests.gateway.ops.pages import row, shown
from tests.gateway.web.signed_in import Browser, signed_in
from tests.pooled_connections import Guard


@pytest.fixture
def ada(platform: Platform, settings: Settings) -> Person:
    person = platform.person(dollars=20)
    named(settings, person, "ada")
    platform.project()
    return person


def named(settings: Settings, person: Person, name: str) -> None:
    with connect(settings) as connection:
        add_account_name(connection, person.account_id, name)


def figures(page: str) -> dict[str, str]:
    """Return the figures of the page of an account by their labels."""
    return dict(re.findall(r'<div class="figure"><dt>([^<]+)</dt><dd>(.*?)</dd>', page))


def sent(browser: Browser, path: str, **form: str) -> str:
    return browser.client.post(path, data=form, headers=browser.htmx).text


def test_all_accounts_are_listed(operator: Browser, platform: Platform, ada: Person) -> None:
    poor = platform.person(dollars=1)
    platform.spend(poor)
    platform.project()
    page = shown(operator, "/ops/accounts")
    ok = "ada owner active 0 $20.00 $0.00"
    assert row(page, f'data-account="{ada.account_id}"') == ok
    assert "0 $0.00 $0.00" in row(page, f'data-account="{poor.account_id}"')
    first, *later = re.findall(r'data-account="([^"]+)"', page)
    page = shown(operator, f"/ops/accounts?after={first}")
    assert re.findall(r'data-account="([^"]+)"', page) == later
    assert operator.client.get(f"/ops/accounts?after={uuid4()}").status_code == 404


def test_an_account_is_found_by_its_name_or_id(operator: Browser, ada: Person) -> None:
    for text in ("ada", str(ada.account_id)):
        answer = operator.client.get(f"/ops/accounts?name={text}", follow_redirects=False)
        assert answer.headers["location"] == f"/ops/accounts/{ada.account_id}"
    assert 'data-empty="accounts"' in shown(operator, "/ops/accounts?name=nobody")
    assert operator.client.get(f"/ops/accounts/{uuid4()}").status_code == 404


def test_accounts_are_filtered_by_a_part_of_their_name_and_by_their_suspension(
    operator: Browser, platform: Platform, ada: Person, settings: Settings
) -> None:
    for name in ("Adam", "grace", "100%_"):
        named(settings, platform.person(), name)
    platform.suspend(ada)
    platform.project()
    for query, names in (
        ("name=AD", ["ada", "Adam"]),
        ("name=AD&suspended=true", ["ada"]),
        ("name=0%25_", ["100%_"]),
        ("name=g_ace", []),
        ("suspended=true", ["ada"]),
    ):
        page = shown(operator, f"/ops/accounts?{query}")
        found = re.findall(r'href="/ops/accounts/[0-9a-f-]{36}">([^<]+)<', page)
        assert sorted(found) == sorted(names), query
    page = shown(operator, "/ops/accounts?suspended=true")
    assert "suspended: payment" in row(page, f'data-account="{ada.account_id}"')


def test_the_list_counts_the_running_jobs(client: TestClient, platform: Platform) -> None:
    running = Owner(client, platform)
    running.act(lambda job: job.allocate_segment(1))
    with because(platform.cause):
        account = running.person.account_id
        platform.log.commit(Meter.open(account, running.job_id, 1, running.rate))
    running.act(lambda job: job.start_pod(1, "pod", datetime.now(UTC)))
    platform.project()
    operator = signed_in(client, platform.person(Role.OPERATOR))
    assert "active 1 $" in row(shown(operator, "/ops/accounts"), f'data-account="{account}"')
    assert "1" in figures(shown(operator, f"/ops/accounts/{account}"))["Running jobs"]


def test_an_account_is_created_and_gets_a_key(operator: Browser) -> None:
    form = {"name": " linus ", "role": "owner", "time_zone": "Europe/Berlin"}
    made = operator.client.post("/ops/accounts", data=form, headers=operator.htmx)
    path = made.headers["hx-redirect"]
    page = shown(operator, path)
    assert "linus" in page
    for empty in ("keys", "payments", "budgets"):
        assert f'data-empty="{empty}"' in page
    page = sent(operator, f"{path}/keys", name="laptop", scope="read", role="member", days="30")
    (secret,) = re.findall(r'id="new-secret"[^>]*>(eco_[^<]+)<', page)
    again = shown(operator, path)
    assert secret not in again
    assert f"eco_…{secret[-4:]} laptop member read" in row(again, "data-key")
    own = {"authorization": f"Bearer {secret}"}
    operator.client.cookies.clear()
    account = operator.client.get("/api/account", headers=own).json()
    assert (account["name"], account["time_zone"]) == ("linus", "Europe/Berlin")


def test_an_invalid_account_is_not_created(
    operator: Browser, platform: Platform, ada: Person, subtests: pytest.Subtests
) -> None:
    before = platform.topics().count("AccountOpened")
    for form, why in (
        ({"name": " "}, "The name is empty"),
        ({"name": "ada"}, "An account named ada already exists"),
        ({"name": str(uuid4())}, "Choose another name"),
        ({"name": "x", "role": "member"}, "A member has no account"),
        ({"name": "x", "time_zone": "Moon"}, "Unknown time zone"),
    ):
        with subtests.test(str(form)):
            assert why in html.unescape(sent(operator, "/ops/accounts", **form))
            assert platform.topics().count("AccountOpened") == before


@pytest.mark.parametrize(("days", "expiry"), [(None, "Never"), (7, "With your own key")])
def test_the_form_shows_when_the_key_expires(
    client: TestClient, platform: Platform, ada: Person, days: int | None, expiry: str
) -> None:
    ends = datetime.now(UTC) + timedelta(days=days) if days else None
    account_id = platform.person(Role.OPERATOR).account_id
    limited = signed_in(client, platform.key(account_id, KeyRequest(expires_at=ends)))
    page = shown(limited, f"/ops/accounts/{ada.account_id}")
    assert f'<option value="0">{expiry}</option>' in page


def test_a_key_of_an_account_is_revoked(operator: Browser, ada: Person) -> None:
    path = f"/ops/accounts/{ada.account_id}"
    assert "revoked" not in row(shown(operator, path), f'data-key="{ada.key_id}"')
    page = sent(operator, f"{path}/keys/{ada.key_id}/revoke")
    assert "Revoked the key" in page
    assert "revoked" in row(page, f'data-key="{ada.key_id}"')
    assert operator.client.get("/api/account", headers=ada.headers).status_code == 401
    other = f"{path}/keys/{operator.person.key_id}/revoke"
    assert 'data-code="not_found"' in sent(operator, other)
    own = f"/ops/accounts/{operator.person.account_id}/keys/{operator.person.key_id}/revoke"
    left = operator.client.post(own, headers=operator.htmx)
    assert left.headers["hx-redirect"] == "/sign-in"


def test_an_account_is_suspended_and_reinstated(operator: Browser, ada: Person) -> None:
    path = f"/ops/accounts/{ada.account_id}"
    page = shown(operator, path)
    assert 'data-opens="suspend"' in page
    page = sent(operator, f"{path}/suspend", reason="abuse")
    assert "The account is suspended." in page
    assert 'data-note="suspended"' in page
    assert 'id="new-key"' not in page
    assert 'data-code="account_suspended"' in sent(operator, f"{path}/keys", scope="read")
    page = sent(operator, f"{path}/reinstate")
    assert "The account is reinstated." in page
    assert 'data-note="suspended"' not in page
    assert 'role="alert"' in sent(operator, f"{path}/suspend", reason="whim")


def test_an_operator_cannot_be_suspended(operator: Browser) -> None:
    path = f"/ops/accounts/{operator.person.account_id}"
    assert 'data-opens="suspend"' not in shown(operator, path)
    assert 'data-code="wrong_state"' in sent(operator, f"{path}/suspend", reason="abuse")


def test_budgets_credits_and_payments_are_listed(operator: Browser, ada: Person) -> None:
    budget = {"period": "month", "limit": "50"}
    operator.client.cookies.clear()
    operator.client.post("/api/account/budgets", json=budget, headers=ada.headers)
    operator = signed_in(operator.client, operator.person)
    page = shown(operator, f"/ops/accounts/{ada.account_id}")
    assert "each month $50.00 $0.00 (0%) $50.00" in row(page, 'data-budget="month"')
    assert "credit granted given" in row(page, 'data-payment="given"')


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
    for action in ("suspend", "reinstate", "keys"):
        assert 'role="alert"' in sent(auditor, f"{path}/{action}", reason="abuse", scope="read")
    for action in ("credits", "top-ups"):
        assert 'role="alert"' in sent(auditor, f"{path}/{action}", amount="5", reference="x")
    assert "$20.00" in shown(auditor, path)


def test_the_operator_gets_the_customer_of_a_card_that_stays_at_the_provider(
    operator: Browser,
    platform: Platform,
    ada: Person,
    guarded: Guard,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, removed = f"/ops/accounts/{ada.account_id}/erase", list[str]()
    with because(platform.cause):
        card = SavedCard(customer="cus_1", payment_method="pm_1")
        AutoToppingUp(platform.log).save_card(ada.account_id, card)
    platform.suspend(ada)
    platform.project()
    assert "cus_1" in sent(operator, path, name="ada")
    assert "CardRemoved" not in platform.topics()
    cards = SimpleNamespace(remove_cards=guarded(removed.append))
    monkeypatch.setattr(service, "card_provider", lambda: cards)
    assert "cus_1" not in sent(operator, path, name="ada")
    assert removed == ["cus_1"]
    assert "CardRemoved" in platform.topics()


def test_a_suspended_account_is_erased_after_its_name_is_entered(
    operator: Browser, platform: Platform, ada: Person
) -> None:
    path = f"/ops/accounts/{ada.account_id}"
    assert 'id="erase"' not in shown(operator, path)
    assert "Suspend it first" in sent(operator, f"{path}/erase", name="ada")
    platform.suspend(ada)
    platform.project()
    assert "Refund it" in shown(operator, path)
    refused = html.unescape(sent(operator, f"{path}/erase", name="Ada"))
    assert "'Ada' is not the account's name" in refused
    page = sent(operator, f"{path}/erase", name=" ada ")
    assert "The account is erased" in page
    assert 'data-note="erased"' in page
    for gone in ('id="erase"', 'id="reinstate"', 'id="suspend"', 'id="new-key"'):
        assert gone not in page
    assert "revoked" in row(page, "data-key")
    assert platform.topics()[-2:] == ["ApiKeyRevoked", "AccountErased"]
    assert "permanent" in sent(operator, f"{path}/reinstate")
