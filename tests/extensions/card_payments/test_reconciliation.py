"""Payments whose confirmation was lost are found at Stripe, and count once."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import httpx
import pytest
from psycopg_pool import ConnectionPool

from domain.billing.account import Account
from domain.billing.card_payment import CardFailure, CardPayment, CardPaymentStatus
from domain.core.aggregate import because
from domain.core.event_log import EventLog
from domain.use_cases.payments import Paying
from domain.use_cases.returns import Returning
from extensions.card_payments.payment_rows import newest_card_payments
from extensions.card_payments.payments import CardPayments
from extensions.card_payments.reconciliation import CHECKOUT_TIME, CONFIRMATION_TIME, Reconciliation
from extensions.card_payments.returns import CardReturns
from extensions.card_payments.stripe_provider import (
    stripe_provider,
)
from infrastructure.payments.provider import CardOrder, ProviderUnavailable
from infrastructure.postgres.store import Connection, connect
from infrastructure.settings import Settings
from tests.builders.commands import FixedClock
from tests.builders.platform import Person, Platform
from tests.extensions.card_payments.localstripe.process import (
    UNREACHABLE,
    WEBHOOK,
    LocalStripe,
    event_of,
    signature_of,
)
from tests.gateway.conftest import running_gateway
from tests.polling import eventually

PAGE = "http://127.0.0.1/billing/payments"
DOLLAR = 1_000_000


@dataclass
class Shop:
    """Payments of one person, and their reconciliation."""

    platform: Platform
    stripe: LocalStripe
    payments: CardPayments
    reconciliation: Reconciliation
    clock: FixedClock
    person: Person

    def start(self, dollars: int = 25) -> CardPayment:
        with because(self.platform.cause):
            payment, url = self.payments.start(
                CardOrder(uuid4(), self.person.account_id, dollars * DOLLAR), PAGE
            )
        assert url is not None
        return payment

    def reconcile(self, after: timedelta = CONFIRMATION_TIME) -> int:
        self.platform.project()
        self.clock.time = max(self.clock.time, datetime.now(UTC)) + after + timedelta(seconds=1)
        return self.reconciliation.reconcile()

    def loaded(self, payment: CardPayment) -> CardPayment:
        return self.platform.log.load(CardPayment, payment.id)

    def references(self) -> list[str]:
        self.platform.project()
        with connect(self.platform.settings) as connection:
            found = newest_card_payments(connection, self.person.account_id, None, 10)
        return [each["reference"] for each in found]

    @property
    def balance_micros(self) -> int:
        return self.platform.log.load(Account, self.person.account_id).balance_micros


@pytest.fixture
def platform(settings: Settings, log: EventLog) -> Platform:
    return Platform(settings, log)


@pytest.fixture
def shop(
    settings: Settings,
    platform: Platform,
    pool: ConnectionPool[Connection],
    local_stripe: LocalStripe,
) -> Shop:
    provider = stripe_provider()
    assert provider is not None
    payments = CardPayments(Paying(platform.log), provider)
    clock = FixedClock(datetime.now(UTC))
    returns = CardReturns(Returning(platform.log), payments)
    reconciliation = Reconciliation(clock, platform.log, pool, returns)
    return Shop(platform, local_stripe, payments, reconciliation, clock, platform.person())


def checkout_of(payment: CardPayment) -> str:
    assert payment.checkout is not None
    return payment.checkout


def test_a_lost_confirmation_is_found_once(shop: Shop) -> None:
    payment = shop.start()
    shop.stripe.pay(checkout_of(payment))
    assert shop.balance_micros == 0
    assert shop.reconcile() == 1
    assert shop.balance_micros == 25 * DOLLAR
    assert shop.reconcile() == 0
    found = shop.loaded(payment)
    assert found.status is CardPaymentStatus.PAID
    assert (found.reference or "").startswith("pi_")
    assert shop.balance_micros == 25 * DOLLAR


def test_an_unpaid_page_stays_pending_until_it_expires(shop: Shop) -> None:
    payment = shop.start()
    assert shop.reconcile() == 1
    assert shop.loaded(payment).is_pending
    assert shop.reconcile(after=timedelta(0)) == 0
    shop.stripe.expire(checkout_of(payment))
    assert shop.reconcile() == 1
    assert shop.loaded(payment).failure is CardFailure.EXPIRED
    assert shop.balance_micros == 0


def test_the_webhook_has_time_to_confirm_a_payment(shop: Shop) -> None:
    shop.stripe.pay(checkout_of(shop.start()))
    assert shop.reconcile(after=timedelta(0)) == 0
    assert shop.reconcile() == 1


def test_another_amount_at_stripe_adds_nothing(shop: Shop) -> None:
    payment = shop.start()
    shop.stripe.pay(checkout_of(payment), amount=2_400)
    assert shop.reconcile() == 1
    assert shop.loaded(payment).failure is CardFailure.MISMATCH
    assert shop.balance_micros == 0


def test_a_payment_without_a_page_ends_after_a_day(shop: Shop) -> None:
    payment_id = uuid4()
    with because(shop.platform.cause):
        shop.payments.paying.start(
            payment_id, shop.person.account_id, 25 * DOLLAR, saves_card=False
        )
    assert shop.reconcile() == 1
    assert shop.platform.log.load(CardPayment, payment_id).is_pending
    assert shop.reconcile(after=CHECKOUT_TIME) == 1
    assert shop.platform.log.load(CardPayment, payment_id).failure is CardFailure.EXPIRED


def test_a_repeated_start_opens_one_page(shop: Shop) -> None:
    payment_id, opened = uuid4(), shop.stripe.count("checkout.session")

    def start() -> tuple[CardPayment, str | None]:
        with because(shop.platform.cause):
            return shop.payments.start(
                CardOrder(payment_id, shop.person.account_id, 25 * DOLLAR), PAGE
            )

    # The second request comes after a crash that lost the ID of the page.
    with because(shop.platform.cause):
        payment = shop.payments.paying.start(
            payment_id, shop.person.account_id, 25 * DOLLAR, saves_card=False
        )
        lost = shop.payments.provider.open_checkout(
            payment, f"{PAGE}/{payment_id}", f"{PAGE}/{payment_id}?cancelled=1"
        )
    assert [each[1] for each in (start(), start())] == [lost.url] * 2
    assert shop.stripe.count("checkout.session") == opened + 1


def test_a_payment_that_an_operator_confirmed_counts_once(shop: Shop) -> None:
    payment = shop.start()
    reference = shop.stripe.pay(checkout_of(payment))["payment_intent"]
    receipt = shop.payments.provider.receipt(reference, 25 * DOLLAR)
    with because(shop.platform.cause):
        shop.platform.ecolink.top_up(shop.person.account_id, receipt)
    assert shop.reconcile() == 1
    assert shop.balance_micros == 25 * DOLLAR


def test_stripe_is_asked_again_when_it_was_unreachable(
    shop: Shop, pool: ConnectionPool[Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    payment = shop.start()
    shop.stripe.pay(checkout_of(payment))
    UNREACHABLE.enable(monkeypatch)
    provider = stripe_provider()
    assert provider is not None
    down = CardPayments(shop.payments.paying, provider)
    returns = CardReturns(Returning(shop.platform.log), down)
    working = shop.reconciliation
    shop.reconciliation = Reconciliation(shop.clock, shop.platform.log, pool, returns)
    assert shop.reconcile() == 1
    assert shop.balance_micros == 0
    shop.reconciliation = working
    assert shop.reconcile() == 1
    assert shop.balance_micros == 25 * DOLLAR


def test_a_pass_ends_when_stripe_does_not_respond(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, asked = type(shop.payments.provider), list[UUID]()
    payments = {shop.start().id for _ in range(3)}

    def hang(_: object, payment: CardPayment) -> None:
        asked.append(payment.id)
        raise ProviderUnavailable

    monkeypatch.setattr(provider, "checkout", hang)
    assert [shop.reconcile(timedelta(0)) for _ in range(2)] == [0, 0]
    assert [shop.reconcile(), shop.reconcile(timedelta(0))] == [1, 1]
    assert len({*asked} & payments) == len(asked) == 2


def test_a_pass_ends_after_its_time_and_the_next_one_goes_on(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    payments = [shop.start() for _ in range(2)]
    for payment in payments:
        shop.stripe.pay(checkout_of(payment))
    monkeypatch.setattr("extensions.card_payments.reconciliation.PASS_SECONDS", 0.0)
    assert [shop.reconcile(), shop.balance_micros] == [1, 25 * DOLLAR]
    assert [shop.reconcile(timedelta(0)), shop.balance_micros] == [1, 50 * DOLLAR]


def test_refunds_and_disputes_without_a_webhook_are_found(shop: Shop) -> None:
    for _ in range(4):
        shop.stripe.pay(checkout_of(shop.start()))
    assert (shop.reconcile(), shop.balance_micros) == (4, 100 * DOLLAR)
    references = shop.references()
    refund = shop.stripe.refund(references[0], 1_000)
    shop.stripe.fail_refund(shop.stripe.refund(references[1], 1_000)["id"])
    disputes = [shop.stripe.dispute(each, 2_500) for each in references[2:]]
    shop.stripe.close(disputes[1]["id"], "warning_needs_response")
    assert (shop.reconciliation.search(), shop.balance_micros) == (2, 65 * DOLLAR)
    assert shop.reconciliation.search() == 0
    shop.stripe.fail_refund(refund["id"])
    shop.stripe.close(disputes[0]["id"], "won")
    assert (shop.reconciliation.search(), shop.balance_micros) == (2, 100 * DOLLAR)
    assert shop.reconciliation.search() == 0


def test_all_pages_of_disputes_are_read(shop: Shop) -> None:
    began = datetime.now(UTC) - timedelta(minutes=1)
    shop.stripe.pay(checkout_of(shop.start()))
    shop.reconcile()
    (reference,) = shop.references()
    disputes = {shop.stripe.dispute(reference, 1)["id"] for _ in range(11)}
    found = [each.id for each in shop.payments.provider.disputes_since(began)]
    assert len(found) == len(set(found))
    assert disputes <= set(found)


def test_a_search_ends_when_stripe_does_not_respond(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.stripe.pay(checkout_of(shop.start()))
    shop.reconcile()
    shop.stripe.refund(shop.references()[0], 1_000)

    def hang(*_: object) -> None:
        raise ProviderUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(type(shop.payments.provider), "refunds", hang)
        assert (shop.reconciliation.search(), shop.balance_micros) == (0, 25 * DOLLAR)
    assert (shop.reconciliation.search(), shop.balance_micros) == (1, 15 * DOLLAR)


@pytest.mark.full
def test_a_gateway_that_dies_before_the_confirmation_loses_no_payment(
    shop: Shop, settings: Settings, local_stripe: LocalStripe
) -> None:
    """The customer has paid, and the gateway was killed. Billing adds the payment, once.

    Later, Stripe delivers its event again to the next gateway.
    """
    with running_gateway(settings, status=-signal.SIGKILL) as gateway:
        local_stripe.send_webhooks_to(gateway.url)
        answer = httpx.post(
            f"{gateway.url}/api/account/payments",
            json={"amount": "25.00"},
            headers=shop.person.headers,
        ).json()
        payment = shop.platform.log.load(CardPayment, UUID(answer["id"]))
        session = local_stripe.pay(checkout_of(payment))
        gateway.process.kill()
    assert shop.balance_micros == 0
    assert shop.reconcile() == 1
    with running_gateway(settings) as gateway:
        body = event_of("checkout.session.completed", session)
        for _ in range(3):
            headers = {"stripe-signature": signature_of(body)}
            again = httpx.post(f"{gateway.url}{WEBHOOK}", content=body, headers=headers)
            assert again.status_code == 204
    assert shop.balance_micros == 25 * DOLLAR
    assert shop.reconcile() == 0


@pytest.mark.full
def test_a_webhook_of_a_running_stripe_adds_the_payment(
    shop: Shop, settings: Settings, local_stripe: LocalStripe
) -> None:
    with running_gateway(settings) as gateway:
        local_stripe.send_webhooks_to(gateway.url)
        local_stripe.pay(checkout_of(shop.start()))
        eventually(lambda: shop.balance_micros == 25 * DOLLAR)
