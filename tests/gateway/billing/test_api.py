"""Top-ups, statements and CSV downloads."""

from __future__ import annotations

import csv
import io

from fastapi.testclient import TestClient

from domain.access.role import Role
from infrastructure.settings import Settings
from tests.builders.platform import Platform
from tests.gateway.conftest import application


def test_a_payment_counts_once_on_the_whole_platform(
    client: TestClient, platform: Platform
) -> None:
    operator, person, other = platform.person(Role.OPERATOR), platform.person(), platform.person()
    payment = {"amount": "100.00", "reference": "transfer 7"}

    def top_up(account: object, **change: str) -> int:
        path = f"/api/accounts/{account}/top-ups"
        return client.post(path, json=payment | change, headers=operator.headers).status_code

    assert [top_up(person.account_id) for _ in range(2)] == [200, 200]
    assert top_up(other.account_id) == 409
    assert top_up(person.account_id, amount="99.00") == 409
    assert top_up(person.account_id, provider="magic", reference="8") == 422
    assert top_up(person.account_id, reference="=cmd()") == 422
    account = client.get("/api/account", headers=person.headers).json()
    assert account["balance"]["text"] == "$100.00"
    (posting,) = client.get("/api/ledger", headers=person.headers).json()["data"]
    assert (posting["debit"], posting["reference"]) == ("cash", "transfer 7")


def test_only_an_operator_confirms_payments(client: TestClient, platform: Platform) -> None:
    person = platform.person()
    answer = client.post(
        f"/api/accounts/{person.account_id}/top-ups",
        json={"amount": "1", "reference": "mine"},
        headers=person.headers,
    )
    assert answer.status_code == 403


def test_a_statement_opens_and_closes_with_the_balance(
    client: TestClient, platform: Platform
) -> None:
    person = platform.person(dollars=3)
    platform.project()
    days = client.get("/api/statements/days", headers=person.headers).json()["data"]
    assert len(days) == 30
    assert days[0]["opening"]["micros"] == 0
    (paid,) = (day for day in days if day["credits"]["micros"])  # yesterday, just after midnight
    assert paid["credits"]["micros"] == 3_000_000
    assert days[-1]["closing"]["micros"] == 3_000_000
    assert len(paid["event_ids"]["credits"]) == 1
    assert client.get("/api/statements/jobs", headers=person.headers).json()["data"] == []
    answer = client.get("/api/statements/days.csv", headers=person.headers)
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert rows[-1]["closing_micros"] == "3000000"
    ledger = client.get("/api/ledger.csv", headers=person.headers).text
    assert [row["amount_micros"] for row in csv.DictReader(io.StringIO(ledger))] == ["3000000"]
    assert client.get("/api/statements/jobs.csv", headers=person.headers).status_code == 200


def test_the_days_of_a_statement_are_bounded(client: TestClient, platform: Platform) -> None:
    person = platform.person()
    for days in ("first=2026-02-01&last=2026-01-01", "first=2020-01-01&last=2026-01-01", "last=x"):
        answer = client.get(f"/api/statements/days?{days}", headers=person.headers)
        assert answer.status_code == 422, days


def test_an_operator_cannot_confirm_test_payments_while_they_are_off(
    settings: Settings, projecting: None, platform: Platform
) -> None:
    operator, person = platform.person(Role.OPERATOR), platform.person()
    body = {"amount": "1", "reference": "mine", "provider": "test"}
    path = f"/api/accounts/{person.account_id}/top-ups"
    off = settings.model_copy(update={"test_payments": False})
    with TestClient(application(off)) as client:
        answer = client.post(path, json=body, headers=operator.headers)
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == "provider"
