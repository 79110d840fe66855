"""Payments by card: the API, the pages and the webhook."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi.testclient import TestClient

from domain.access.rights import KeyRequest
from domain.access.role import Role
from domain.access.scope import Scope
from extensions.card_payments import service
from extensions.card_payments.webhook import MAX_BYTES
from infrastructure.postgres.log_identity import set_held
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.builders.platform import Person, Platform
from tests.extensions.card_payments.localstripe.process import (
    UNREACHABLE,
    WEBHOOK,
    LocalStripe,
    event_of,
    signature_of,
)
from tests.gateway.conftest import application
from tests.gateway.http.shared_threads import Blocked, others_are_answered
from tests.gateway.web.html import read_html
from tests.gateway.web.signed_in import signed_in
from tests.polling import eventually


@pytest.fixture
def client(settings: Settings, projecting: None, local_stripe: LocalStripe) -> Iterator[TestClient]:
    """A client of a gateway that accepts cards."""
    app = application(settings)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def person(platform: Platform) -> Person:
    return platform.person()


def start(client: TestClient, person: Person, **change: str) -> httpx.Response:
    headers = person.headers | {"idempotency-key": change.pop("key", uuid4().hex)}
    body = {"amount": "25.00"} | change
    return client.post("/api/account/payments", json=body, headers=headers)


def shown(client: TestClient, person: Person, payment: dict[str, Any]) -> dict[str, Any]:
    return client.get(f"/api/account/payments/{payment['id']}", headers=person.headers).json()


def balance(client: TestClient, person: Person) -> str:
    return client.get("/api/account", headers=person.headers).json()["balance"]["text"]


def deliver(
    client: TestClient,
    about: dict[str, Any],
    event_id: str | None = None,
    kind: str = "checkout.session.completed",
) -> int:
    body = event_of(kind, about, event_id)
    headers = {"stripe-signature": signature_of(body)}
    return client.post(WEBHOOK, content=body, headers=headers).status_code


def checkout(payment: dict[str, Any]) -> str:
    return payment["url"].rpartition("/")[2]


def test_a_held_copy_takes_no_event_before_the_confirmation(
    client: TestClient, person: Person, settings: Settings, local_stripe: LocalStripe
) -> None:
    payment = start(client, person).json()
    session = local_stripe.pay(checkout(payment))
    with connect(settings) as connection:
        set_held(connection, True)
        assert deliver(client, session) == 503
        assert shown(client, person, payment)["status"] == "pending"
        set_held(connection, False)
    assert deliver(client, session) == 204
    assert shown(client, person, payment)["status"] == "paid"


def test_a_slow_stripe_delays_no_other_request(
    client: TestClient, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = Blocked()
    monkeypatch.setattr(service, "start", blocked)
    request, body = ("POST", "/api/account/payments"), {"amount": "25.00"}
    assert others_are_answered(client, blocked, person.headers, *request, json=body)


def test_a_payment_is_added_when_stripe_confirms_it(
    client: TestClient, person: Person, local_stripe: LocalStripe
) -> None:
    answer = start(client, person)
    payment = answer.json()
    assert (answer.status_code, payment["status"]) == (201, "pending")
    assert balance(client, person) == "$0.00"
    session = local_stripe.pay(checkout(payment))
    for _ in range(2):  # the same event twice
        assert deliver(client, session, "evt_1") == 204
    assert deliver(client, session) == 204  # another event about the same payment
    found = shown(client, person, payment)
    assert (found["status"], found["reference"]) == ("paid", session["payment_intent"])
    eventually(lambda: balance(client, person) == "$25.00")
    (posting,) = client.get("/api/ledger", headers=person.headers).json()["data"]
    assert (posting["debit"], posting["reference"]) == ("cash", session["payment_intent"])
    (listed,) = client.get("/api/account/payments", headers=person.headers).json()["data"]
    assert (listed["id"], listed["status"]) == (payment["id"], "paid")


def test_the_ledger_links_to_the_receipt(
    client: TestClient, person: Person, platform: Platform, local_stripe: LocalStripe
) -> None:
    session = local_stripe.pay(checkout(start(client, person).json()))
    deliver(client, session)
    signed_in(client, person)
    address = f"/billing/receipts/{session['payment_intent']}"
    eventually(lambda: f'href="{address}"' in client.get("/billing").text)
    receipt = client.get(address, follow_redirects=False)
    assert receipt.headers["location"].startswith("https://pay.stripe.com/receipts/ch_")
    assert client.get("/billing/receipts/pi_1", follow_redirects=False).status_code == 404
    signed_in(client, platform.person())
    assert client.get(address, follow_redirects=False).status_code == 404
    member = KeyRequest(Role.MEMBER, Role.MEMBER.scopes)
    for wanted in (KeyRequest(scopes=[Scope.READ]), member):
        signed_in(client, platform.key(person.account_id, wanted))
        assert client.get(address, follow_redirects=False).status_code == 303
    browser = signed_in(client, platform.person(Role.AUDITOR))
    form = {"account": str(person.account_id), "csrf_token": browser.csrf_token}
    client.post("/viewing", data=form)
    assert client.get(address, follow_redirects=False).status_code == 403


@pytest.mark.full
def test_an_operator_refunds_and_a_bank_disputes(
    client: TestClient, person: Person, platform: Platform, local_stripe: LocalStripe
) -> None:
    payment, operator = start(client, person).json(), platform.person(Role.OPERATOR)
    session = local_stripe.pay(checkout(payment))
    deliver(client, session)
    reference = session["payment_intent"]

    def refund(amount: str, who: Person = operator) -> httpx.Response:
        body = {"amount": amount, "payment": reference, "reference": "ticket 17"}
        path = f"/api/accounts/{person.account_id}/refunds"
        return client.post(path, json=body, headers=who.headers)

    assert refund("10.00", person).status_code == 403
    assert [refund("10.00").status_code for _ in range(2)] == [200, 200]
    assert refund("11.00").status_code == 409  # the same reference with another amount
    assert balance(client, person) == "$15.00"
    (made,) = local_stripe.refunds(reference)
    assert deliver(client, made, kind="refund.updated") == 204
    assert balance(client, person) == "$15.00"
    dispute = local_stripe.dispute(reference, 1500)
    assert deliver(client, dispute, kind="charge.dispute.created") == 204
    eventually(lambda: balance(client, person) == "$0.00")
    won = local_stripe.close(dispute["id"], "won")
    assert deliver(client, won, kind="charge.dispute.closed") == 204
    eventually(lambda: balance(client, person) == "$15.00")
    today = client.get("/api/statements/days", headers=person.headers).json()["data"][-1]
    assert (today["top_ups"]["text"], today["refunds"]["text"]) == ("$25.00", "$10.00")
    assert today["closing"]["text"] == "$15.00"
    page = signed_in(client, person).client.get("/billing").text
    assert "Refunded or disputed" in page
    assert "Payment returned" not in page
    browser = signed_in(client, operator)
    form = {"amount": "5.00", "payment": reference, "reference": "ticket 18"}
    path = f"/ops/accounts/{person.account_id}/refunds"
    done = client.post(path, data=form, headers=browser.htmx)
    assert "Refunded $5.00. The balance is $10.00." in " ".join(done.text.split())


def test_an_event_before_the_payment_adds_nothing(client: TestClient, person: Person) -> None:
    """EcoLink asks Stripe, so it does not rely on what an event says."""
    payment = start(client, person).json()
    claimed = {
        "id": checkout(payment),
        "object": "checkout.session",
        "client_reference_id": payment["id"],
        "payment_status": "paid",
    }
    assert deliver(client, claimed) == 204
    assert shown(client, person, payment)["status"] == "pending"


def test_events_about_foreign_objects_do_nothing(client: TestClient, person: Person) -> None:
    for about in (
        {"id": "cs_1", "object": "checkout.session"},
        {"id": "cs_1", "object": "checkout.session", "client_reference_id": str(uuid4())},
        {"id": "pi_1", "object": "payment_intent", "metadata": {"ecolink_payment": "7"}},
        {"id": "cus_1", "object": "customer", "metadata": {"ecolink_payment": str(uuid4())}},
    ):
        assert deliver(client, about) == 204
    assert balance(client, person) == "$0.00"


def test_a_webhook_without_a_valid_signature_has_no_effect(
    client: TestClient, person: Person, local_stripe: LocalStripe
) -> None:
    payment = start(client, person).json()
    body = event_of("checkout.session.completed", local_stripe.pay(checkout(payment)))
    for signature in ("", "t=1,v1=00", signature_of(body, "whsec_other")):
        answer = client.post(WEBHOOK, content=body, headers={"stripe-signature": signature})
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_signature")
    assert shown(client, person, payment)["status"] == "pending"
    assert client.post(WEBHOOK, content=b" " * (MAX_BYTES + 1)).status_code == 413


def test_requests_with_one_key_start_one_payment(client: TestClient, person: Person) -> None:
    first, again = (start(client, person, key="k").json() for _ in range(2))
    assert first == again
    assert start(client, person, key="k", amount="24.00").status_code == 409


def test_an_amount_that_stripe_refuses_is_refused(client: TestClient, person: Person) -> None:
    for amount in ("0", "0.49", "1000000", "25.001", "x"):
        answer = start(client, person, amount=amount)
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, "amount"), amount


def test_a_payment_of_another_account_is_unknown(
    client: TestClient, person: Person, platform: Platform
) -> None:
    payment, other = start(client, person).json(), platform.person()
    for address in (
        f"/api/account/payments/{payment['id']}",
        f"/api/account/payments?after={payment['id']}",
    ):
        assert client.get(address, headers=other.headers).status_code == 404


def test_without_stripe_payments_by_card_are_disabled(
    late_client: TestClient, person: Person
) -> None:
    assert late_client.post(WEBHOOK, content=b"{}").status_code == 404
    answer = start(late_client, person)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


def test_an_unreachable_stripe_is_reported(
    settings: Settings, projecting: None, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    UNREACHABLE.enable(monkeypatch)
    with TestClient(application(settings), raise_server_exceptions=False) as client:
        answer = start(client, person)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "payment_provider_unavailable"


def test_the_form_sends_the_browser_to_stripe_and_the_page_waits(
    client: TestClient, person: Person, local_stripe: LocalStripe
) -> None:
    browser = signed_in(client, person)
    form = read_html(client.get("/billing").text)["top-up"]
    assert "page of Stripe" in form.text
    sent = form.fields | {"amount": "25.00"}
    for _ in range(2):  # a double click
        answer = client.post("/billing/top-ups", data=sent, headers=browser.htmx)
        url = answer.headers["hx-redirect"]
        assert "/c/pay/cs_test_" in url
    session = local_stripe.pay(url.rpartition("/")[2])
    address = session["success_url"].removeprefix("http://testserver")
    page = client.get(address)
    assert 'data-status="pending"' in page.text
    assert "waiting for the confirmation" in page.text
    assert "script-src" not in page.headers["content-security-policy"]
    assert deliver(client, session) == 204
    part = client.get(address, headers=browser.htmx).text
    assert 'data-status="paid"' in part
    assert "added $25.00 to your balance, which is now $25.00" in " ".join(part.split())
    assert "hx-trigger" not in part
    again = client.post("/billing/top-ups", data=sent, headers=browser.htmx)
    assert again.headers["hx-redirect"] == address


def test_the_pages_explain_a_cancelled_payment_and_an_invalid_amount(
    client: TestClient, person: Person
) -> None:
    browser = signed_in(client, person)
    payment = start(client, person).json()
    page = client.get(f"/billing/payments/{payment['id']}?cancelled=1").text
    assert "You left the page of Stripe without paying" in page
    form = read_html(client.get("/billing").text)["top-up"].fields | {"amount": "0.10"}
    answer = client.post("/billing/top-ups", data=form, headers=browser.htmx)
    assert "out of range" in read_html(answer.text)["amount-problem"].text
