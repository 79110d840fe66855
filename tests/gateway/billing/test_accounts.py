"""Credits, balance and ledger in integer micro-dollars."""

from __future__ import annotations

from uuid import uuid4

from fastapi.testclient import TestClient

from domain.access.role import Role
from tests.builders.platform import Platform


def test_a_credit_is_granted_once_for_each_reference(
    client: TestClient, platform: Platform
) -> None:
    operator, person = platform.person(Role.OPERATOR), platform.person()
    for _ in range(2):
        answer = client.post(
            f"/api/accounts/{person.account_id}/credits",
            json={"amount": "12.34", "reference": "invoice-1"},
            headers=operator.headers,
        )
        assert answer.status_code == 200
        assert answer.json()["balance"] == {"micros": 12_340_000, "text": "$12.34"}

    account = client.get("/api/account", headers=person.headers).json()
    assert account["available"]["micros"] == 12_340_000
    assert account["reserved"] == {"micros": 0, "text": "$0.00"}
    (posting,) = client.get("/api/ledger", headers=person.headers).json()["data"]
    assert posting["amount"]["micros"] == 12_340_000
    assert (posting["debit"], posting["credit"]) == ("credits", f"customer:{person.account_id}")


def test_an_amount_is_a_string_of_dollars(client: TestClient, platform: Platform) -> None:
    operator, person = platform.person(Role.OPERATOR), platform.person()
    for amount in ("0", "-1", "1.2345678", "5.005", "much", "NaN", "1e400", 5, 2.5):
        answer = client.post(
            f"/api/accounts/{person.account_id}/credits",
            json={"amount": amount, "reference": "x"},
            headers=operator.headers,
        )
        assert answer.status_code == 422, amount
        error = answer.json()["error"]
        assert error.get("field") == "amount" or error["fields"][0]["field"] == "amount"


def test_there_is_no_credit_for_an_account_that_does_not_exist(
    client: TestClient, platform: Platform
) -> None:
    answer = client.post(
        f"/api/accounts/{uuid4()}/credits",
        json={"amount": "1", "reference": "x"},
        headers=platform.person(Role.OPERATOR).headers,
    )
    assert answer.status_code == 404
