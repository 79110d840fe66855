"""Automatic top-ups: the API and the page."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient

from domain.billing.auto_top_up import SavedCard
from domain.billing.card_payment import CardFailure
from domain.core.aggregate import because
from domain.use_cases.auto_top_ups import AutoToppingUp
from domain.use_cases.payments import Paying
from extensions.card_payments.stripe_client import StripeProvider
from infrastructure.settings import Settings
from tests.builders.platform import Person, Platform
from tests.extensions.card_payments.localstripe.process import (
    WEBHOOK,
    LocalStripe,
    event_of,
    signature_of,
)
from tests.gateway.conftest import application
from tests.gateway.web.html import read_html
from tests.gateway.web.signed_in import signed_in

PATH = "/api/account/auto-top-up"
RULE = {"threshold": "10.00", "amount": "25.00", "month_max": "60.00"}


@pytest.fixture
def client(settings: Settings, projecting: None, local_stripe: LocalStripe) -> Iterator[TestClient]:
    """A client of a gateway that accepts cards."""
    app = application(settings)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def save_card(client: TestClient, person: Person, stripe: LocalStripe) -> None:
    """Pay $5 by card, and save the card."""
    headers = person.headers | {"idempotency-key": uuid4().hex}
    body = {"amount": "5.00", "save_card": True}
    payment = client.post("/api/account/payments", json=body, headers=headers).json()
    session = stripe.pay(payment["url"].rpartition("/")[2])
    event = event_of("checkout.session.completed", session)
    signed = {"stripe-signature": signature_of(event)}
    assert client.post(WEBHOOK, content=event, headers=signed).status_code == 204


def test_a_saved_card_allows_automatic_top_ups(
    client: TestClient, platform: Platform, local_stripe: LocalStripe
) -> None:
    person = platform.person()
    refused = client.post(PATH, json=RULE, headers=person.headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "wrong_state")
    save_card(client, person, local_stripe)
    for amount, field in (("0.10", "amount"), ("70.00", "month_max"), ("x", "amount")):
        wrong = client.post(PATH, json=RULE | {"amount": amount}, headers=person.headers)
        assert (wrong.status_code, wrong.json()["error"]["field"]) == (422, field)
    on = client.post(PATH, json=RULE, headers=person.headers).json()
    assert (on["enabled"], on["threshold"]["text"]) == (True, "$10.00")
    assert client.get(PATH, headers=person.headers).json() == on
    off = client.delete(PATH, headers=person.headers).json()
    assert (off["enabled"], off["card_saved"], off["ended"]) == (False, True, "owner")
    assert not client.delete("/api/account/card", headers=person.headers).json()["card_saved"]


def test_the_removal_of_the_card_removes_all_cards_of_the_customer(
    client: TestClient,
    platform: Platform,
    local_stripe: LocalStripe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    person = platform.person()
    with monkeypatch.context() as patched:
        patched.setattr(StripeProvider, "remove_card", lambda *_: None)
        for _ in range(2):
            save_card(client, person, local_stripe)
    known = AutoToppingUp(platform.log).find(person.account_id)
    assert known is not None
    assert len(local_stripe.cards(known.customer)) == 2
    assert not client.delete("/api/account/card", headers=person.headers).json()["card_saved"]
    assert local_stripe.cards(known.customer) == []


def test_a_card_can_be_removed_after_the_operator_disabled_stripe(
    settings: Settings, projecting: None, platform: Platform
) -> None:
    person, card = platform.person(), SavedCard(customer="cus_1", payment_method="pm_1")
    with because(platform.cause):
        AutoToppingUp(platform.log).save_card(person.account_id, card)
    with TestClient(application(settings)) as client:
        answer = client.delete("/api/account/card", headers=person.headers)
    assert (answer.status_code, answer.json()["card_saved"]) == (200, False)


def test_the_page_sets_a_rule_and_reports_a_declined_charge(
    client: TestClient, platform: Platform, local_stripe: LocalStripe
) -> None:
    person = platform.person()
    browser = signed_in(client, person)
    shown = read_html(client.get("/billing").text)
    assert "choose to save the card" in shown["auto-top-up"].text
    assert shown["save-card"].attributes["type"] == "checkbox"
    save_card(client, person, local_stripe)

    def submit(action: str, **change: str) -> str:
        sent = RULE | change | {"action": action}
        answer = client.post("/billing/auto-top-up", data=sent, headers=browser.htmx)
        return " ".join(answer.text.split())

    wrong = read_html(submit("set", amount="0.10"))
    assert "out of range" in wrong["auto-amount-problem"].text
    assert wrong["auto-threshold"].attributes["value"] == "10.00"
    assert "EcoLink charges $25.00 to your saved card" in submit("set")
    assert "no further top-up" not in submit("set")
    with because(platform.cause):
        payment = AutoToppingUp(platform.log).start_due(person.account_id)
        assert payment is not None
    assert "no further top-up fits into the monthly maximum" in submit("set", month_max="30.00")
    with because(platform.cause):
        Paying(platform.log).fail(payment.id, CardFailure.DECLINED)
    page = read_html(client.get("/billing").text)["auto-top-up"].text
    assert "Automatic top-up is off, because your bank declined a charge." in page
    assert "Turn off" in submit("set")
    assert "Automatic top-up is off." in submit("off")
    assert "choose to save the card" in submit("remove")
