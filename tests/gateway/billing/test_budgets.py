"""Budgets in the API and on the billing page."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from fastapi.testclient import TestClient

from domain.access.rights import KeyRequest
from domain.access.scope import Scope
from domain.billing.account import Account
from domain.billing.key_use import Share
from domain.billing.spending import charged_key
from domain.core.aggregate import because
from domain.jobs.job import Job
from domain.jobs.lifecycle import PauseReason, SegmentEnd
from tests.builders.platform import Person, Platform
from tests.gateway.jobs.owners import Reader
from tests.gateway.web.html import read_html
from tests.gateway.web.signed_in import signed_in

PATH = "/api/account/budgets"


def charge(platform: Platform, person: Person, micros: int) -> None:
    """Charge an account for a job of a key."""
    keys = {person.key_id: Share(micros, micros)}
    with because(platform.cause):
        account = platform.log.load(Account, person.account_id)
        account.settle(captured_micros=micros, reserved_micros=micros, keys=keys)
        platform.log.commit(account)


def sets(client: TestClient, person: Person, period: str, limit: str, **more: str) -> Any:
    body = {"period": period, "limit": limit, **more}
    return client.post(PATH, json=body, headers=person.headers)


def test_budgets_show_the_charges_of_their_periods(client: TestClient, platform: Platform) -> None:
    person = platform.person(dollars=10)
    charge(platform, person, 2_000_000)
    assert sets(client, person, "month", "8").json()["data"][0]["spent"]["text"] == "$2.00"
    assert sets(client, person, "day", "4.00").status_code == 200
    charge(platform, person, 1_000_000)
    day, month = client.get(PATH, headers=person.headers).json()["data"]
    today = datetime.now(UTC).date()
    assert (day["period"], day["starts_on"], day["used_percent"]) == ("day", str(today), 75)
    assert (month["period"], month["left"]["micros"]) == ("month", 5_000_000)
    assert month["starts_on"] == str(today.replace(day=1))
    assert month["renews_on"].endswith("-01")
    assert client.delete(f"{PATH}/day", headers=person.headers).status_code == 204
    assert [each["period"] for each in client.get(PATH, headers=person.headers).json()["data"]] == [
        "month"
    ]


def test_a_wrong_budget_is_refused(client: TestClient, platform: Platform) -> None:
    person = platform.person()
    for period, limit in (("day", "0"), ("day", "much"), ("year", "5"), ("total", "5")):
        assert sets(client, person, period, limit).status_code == 422
    reader = platform.key(person.account_id, KeyRequest(scopes=(Scope.READ, Scope.TRAIN)))
    assert sets(client, reader, "day", "5").json()["error"]["code"] == "missing_scope"


def test_a_used_up_budget_refuses_approvals_and_resumes(
    client: TestClient, platform: Platform
) -> None:
    reader = Reader(client, platform, dollars=20)
    reader.train()
    assert sets(client, reader.person, "month", "2").status_code == 200
    charge(platform, reader.person, 2_000_000)
    reader.end(reason=SegmentEnd.LEASE_ENDED, shortfall=PauseReason.BUDGET)
    assert "paused-budget" in reader.notes()
    assert 'href="/billing#budgets-card"' in reader.page()
    again = client.post("/api/jobs", json=reader.form, headers=reader.person.headers)
    for refused in (reader.give("resume"), again):
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (402, "spending_limit_reached")
        figures = error["figures"]
        assert 0 < figures.pop("needed_micros") <= 10_000, "at most the price of a minute"
        assert figures == {
            "period": "month",
            "key_id": None,
            "spent_micros": 2_000_000,
            "limit_micros": 2_000_000,
        }
    assert sets(client, reader.person, "month", "50").status_code == 200
    assert reader.give("resume").json()["status"] == "training"


def test_the_page_shows_and_changes_budgets(client: TestClient, platform: Platform) -> None:
    browser = signed_in(client, person := platform.person(dollars=10))

    def send(**fields: str) -> str:
        answer = client.post("/billing/budgets", headers=browser.htmx, data=fields)
        assert answer.status_code == 200
        return answer.text

    assert "is not an amount" in send(period="day", limit="much")
    assert "$0.00 of $4.00 (0%)" in read_html(send(period="day", limit="4")).text
    charge(platform, person, 4_000_000)
    platform.project()
    shown = client.get("/billing").text
    assert 'data-note="budget-used-up"' in shown
    assert 'value="4000000" max="4000000"' in shown
    polled = client.get("/billing/now", headers=browser.htmx).text
    assert 'hx-target="#budget-day-now"' in polled
    assert "(100%)" not in send(period="day", remove="true")


def test_a_key_has_budgets_of_its_own(client: TestClient, platform: Platform) -> None:
    person = platform.person(dollars=10)
    charge(platform, person, 1_000_000)
    other = platform.key(person.account_id, KeyRequest())
    for key, limit in ((person, "4"), (other, "8")):
        assert sets(client, person, "total", limit, key_id=str(key.key_id)).status_code == 200
    found = client.get(PATH, headers=person.headers).json()["data"]
    shown = {each["key"]["id"]: each for each in found}
    assert [shown[str(each.key_id)]["used_percent"] for each in (person, other)] == [25, 0]
    assert (found[0]["period"], found[0]["renews_on"]) == ("total", None)
    assert shown[str(other.key_id)]["key"]["hint"] == other.key[-4:]
    removed = client.delete(f"{PATH}/total?key_id={other.key_id}", headers=person.headers)
    assert removed.status_code == 204
    assert len(client.get(PATH, headers=person.headers).json()["data"]) == 1
    stranger = platform.person()
    refused = sets(client, stranger, "total", "4", key_id=str(person.key_id))
    assert refused.status_code == 404
    gone = client.delete(f"{PATH}/day?key_id={person.key_id}", headers=stranger.headers)
    assert gone.status_code == 404


def test_another_key_can_resume_a_job_that_reached_the_budget_of_its_key(
    client: TestClient, platform: Platform
) -> None:
    reader = Reader(client, platform, dollars=20)
    person = reader.person
    assert platform.log.load(Job, reader.job_id).key_id == person.key_id
    reader.train()
    charge(platform, person, 2_000_000)
    assert sets(client, person, "month", "2", key_id=str(person.key_id)).status_code == 200
    reader.end(reason=SegmentEnd.LEASE_ENDED, shortfall=PauseReason.BUDGET)
    assert f"for the API key eco_…{person.key[-4:]} has $0.00 left" in reader.text()
    assert reader.give("resume").json()["error"]["figures"]["key_id"] == str(person.key_id)
    other = platform.key(person.account_id, KeyRequest())
    assert reader.give("resume", other).json()["status"] == "training"
    assert platform.log.load(Job, reader.job_id).key_id == other.key_id


def test_a_key_shares_the_budgets_of_the_key_that_created_it(
    client: TestClient, platform: Platform
) -> None:
    reader = Reader(client, platform, dollars=20)
    person = reader.person
    limited = platform.key(person.account_id, KeyRequest())

    def create(issuer: Person) -> Person:
        made = client.post("/api/keys", json={}, headers=issuer.headers).json()
        return Person(person.account_id, UUID(made["id"]), made["secret"])

    child = create(create(limited))
    assert sets(client, person, "total", "1", key_id=str(limited.key_id)).status_code == 200
    charge(platform, limited, 1_000_000)
    refused = [
        client.post("/api/jobs", json=reader.form, headers=each.headers).json()["error"]
        for each in (limited, child)
    ]
    assert refused[0] == refused[1]
    assert refused[0]["figures"]["key_id"] == str(limited.key_id)

    def charged() -> UUID | None:
        account = platform.log.load(Account, person.account_id)
        return charged_key(platform.log, account, child.key_id)

    platform.revoke(limited)  # the budget stays
    assert charged() == limited.key_id
    assert sets(client, person, "day", "9", key_id=str(child.key_id)).status_code == 200
    assert charged() == child.key_id  # a budget of its own
    client.delete(f"{PATH}/day?key_id={child.key_id}", headers=person.headers)
    client.delete(f"{PATH}/total?key_id={limited.key_id}", headers=person.headers)
    assert charged() == child.key_id
    assert charged_key(platform.log, platform.log.load(Account, person.account_id), None) is None


def test_the_pages_show_and_change_the_budgets_of_keys(
    client: TestClient, platform: Platform
) -> None:
    browser = signed_in(client, person := platform.person(dollars=10))

    def send(path: str, **fields: str) -> str:
        answer = client.post(path, headers=browser.htmx, data=fields)
        assert answer.status_code == 200
        return answer.text

    key = str(person.key_id)
    assert "No API key has a budget" in client.get("/billing").text
    shown = send("/billing/budgets", period="day", limit="4", key_id=key)
    assert f'data-budget="{key} day"' in shown
    wrong = send("/billing/budgets", period="month", limit="much", key_id=key)
    assert "is not an amount" in wrong
    assert "<details open" in wrong.replace(' class="budget" data-needs="billing"', "")
    charge(platform, person, 4_000_000)
    platform.project()
    assert "key-budgets-now" in client.get("/billing/now", headers=browser.htmx).text
    listed = client.get("/models").text
    assert "This day: $4.00 of $4.00 (100%)" in read_html(listed).text
    assert "The running jobs of this key" in listed
    path = f"/models/keys/{key}/budgets"
    assert "is not an amount" in send(path, period="day", limit="much")
    assert "In total: $4.00 of $9.00 (44%)" in read_html(send(path, period="total", limit="9")).text
    assert "This day" not in read_html(send(path, period="day", remove="true")).text
