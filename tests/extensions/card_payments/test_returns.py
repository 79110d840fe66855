"""Refunds and disputes at Stripe: the balance, the ledger and the audit."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from uuid import uuid4

import pytest

from domain.billing.account import Account
from domain.billing.payment import Payment, ReturnStatus
from domain.core.aggregate import because
from domain.core.errors import InsufficientBalance, Invalid, NotFound
from domain.core.event_log import EventLog
from domain.use_cases.payments import Paying
from domain.use_cases.returns import Returning
from extensions.card_payments.payments import CardPayments
from extensions.card_payments.return_rows import open_returns, returns_of
from extensions.card_payments.returns import CardReturns
from extensions.card_payments.stripe_provider import (
    stripe_provider,
)
from infrastructure.payments.provider import CardOrder, ProviderUnavailable, RefundRefused
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from projections.billing_ledger import balances, platform_days
from services.projector.audit import audit
from tests.builders.commands import NOW
from tests.builders.platform import Person, Platform
from tests.extensions.card_payments.localstripe.process import LocalStripe

DOLLAR = 1_000_000


@dataclass
class Till:
    """Returns of the payments of one person."""

    settings: Settings
    platform: Platform
    stripe: LocalStripe
    returns: CardReturns
    person: Person

    def paid(self, dollars: int = 25, *, confirmed: bool = True) -> str:
        """Pay by card. Return the reference of the payment."""
        payments, account_id = self.returns.payments, self.person.account_id
        with because(self.platform.cause):
            payment, _ = payments.start(
                CardOrder(uuid4(), account_id, dollars * DOLLAR), "http://x/billing/p"
            )
            assert payment.checkout is not None
            session = self.stripe.pay(payment.checkout)
            if confirmed:
                payments.settle(payment.id)
        return session["payment_intent"]

    def reserve(self, dollars: int) -> None:
        """Reserve a part of the balance for leases, or release it."""
        with because(self.platform.cause):
            account = self.account
            account.settle(captured_micros=0, reserved_micros=dollars * DOLLAR)
            self.platform.log.commit(account)

    def refund(self, reference: str, dollars: int, purpose: str = "ticket 1") -> None:
        with because(self.platform.cause):
            self.returns.refund(self.person.account_id, reference, dollars * DOLLAR, purpose)

    def settle_refunds(self, reference: str) -> None:
        with because(self.platform.cause):
            self.returns.settle_refunds(reference)

    def settle_dispute(self, dispute_id: str) -> None:
        with because(self.platform.cause):
            self.returns.settle_dispute(dispute_id)

    def status(self, reference: str) -> list[ReturnStatus]:
        return [each.status for each in self.returns.returning.load(reference).returns.values()]

    @property
    def account(self) -> Account:
        return self.platform.log.load(Account, self.person.account_id)

    @property
    def balance(self) -> int:
        return self.account.balance_micros // DOLLAR

    @property
    def books(self) -> dict[str, int]:
        """The ledger accounts of the platform, in dollars. The trial balance is 0."""
        self.platform.project()
        with connect(self.settings) as connection:
            found = balances(connection)
        assert sum(found.values()) == 0
        sums = Counter[str]()
        for name, micros in found.items():
            sums[name.partition(":")[0]] += micros // DOLLAR
        return {name: dollars for name, dollars in sums.items() if dollars}


@pytest.fixture
def till(settings: Settings, log: EventLog, local_stripe: LocalStripe) -> Till:
    provider = stripe_provider()
    assert provider is not None
    platform = Platform(settings, log)
    returns = CardReturns(Returning(log), CardPayments(Paying(log), provider))
    return Till(settings, platform, local_stripe, returns, platform.person())


def test_a_refund_returns_a_part_of_a_payment_once(till: Till) -> None:
    reference = till.paid(25)
    for _ in range(2):
        till.refund(reference, 10)
    assert till.balance == 15
    assert [each["amount"] for each in till.stripe.refunds(reference)] == [1000]
    till.settle_refunds(reference)  # the webhook about the same refund
    till.refund(reference, 15, "ticket 2")
    assert till.balance == 0
    assert till.status(reference) == [ReturnStatus.RETURNED] * 2
    assert till.books == {}
    with pytest.raises(Invalid):
        till.refund(reference, 1, "ticket 3")
    assert not audit(till.settings).differences


def test_a_refund_is_at_most_the_available_balance(till: Till) -> None:
    reference = till.paid(25)
    till.reserve(15)
    with pytest.raises(InsufficientBalance):
        till.refund(reference, 11)
    till.refund(reference, 10)
    assert (till.balance, till.account.reserved_micros) == (15, 15 * DOLLAR)
    with pytest.raises(NotFound):
        till.refund("pi_unknown", 1)
    with because(till.platform.cause), pytest.raises(NotFound):
        till.returns.refund(till.platform.person().account_id, reference, DOLLAR, "theirs")


def test_a_refund_that_stripe_refuses_is_restored(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = till.paid(25)

    def refuse(*_: object) -> None:
        raise RefundRefused("no")

    monkeypatch.setattr(type(till.returns.payments.provider), "refund", refuse)
    with pytest.raises(RefundRefused):
        till.refund(reference, 10)
    assert (till.balance, till.status(reference)) == (25, [ReturnStatus.REVERSED])
    assert till.books == {"cash": -25, "customer": 25}
    assert not audit(till.settings).differences


@pytest.mark.parametrize("expired", [False, True])
def test_a_refund_without_an_answer_is_made_once_also_after_its_key_expired(
    till: Till, monkeypatch: pytest.MonkeyPatch, expired: bool
) -> None:
    reference, provider = till.paid(25), type(till.returns.payments.provider)
    make = provider.refund

    def lose_the_answer(*asked: object) -> None:
        make(*asked)  # type: ignore[arg-type]
        raise ProviderUnavailable

    monkeypatch.setattr(provider, "refund", lose_the_answer)
    with pytest.raises(ProviderUnavailable):
        till.refund(reference, 10)
    assert (till.balance, till.status(reference)) == (15, [ReturnStatus.REQUESTED])
    monkeypatch.undo()
    if expired:
        till.stripe.forget_keys()
    till.platform.project()
    with connect(till.settings) as connection:
        (row,) = open_returns(connection, NOW.replace(year=2100))
    with because(till.platform.cause):
        till.returns.send_refund(reference, row["return_id"])
    assert till.status(reference) == [ReturnStatus.RETURNED]
    assert len(till.stripe.refunds(reference)) == 1
    assert till.books == {"cash": -15, "customer": 15}


def test_a_refund_without_an_answer_that_failed_at_the_bank_is_restored(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, provider = till.paid(25), type(till.returns.payments.provider)
    make = provider.refund

    def lose_the_answer(*asked: object) -> None:
        make(*asked)  # type: ignore[arg-type]
        raise ProviderUnavailable

    monkeypatch.setattr(provider, "refund", lose_the_answer)
    with pytest.raises(ProviderUnavailable):
        till.refund(reference, 10)
    monkeypatch.undo()
    till.stripe.fail_refund(till.stripe.refunds(reference)[0]["id"])
    with pytest.raises(RefundRefused):
        till.refund(reference, 10)
    assert (till.balance, till.status(reference)) == (25, [ReturnStatus.REVERSED])


def test_a_refund_that_was_refused_is_refused_again(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = till.paid(25)

    def refuse(*_: object) -> None:
        raise RefundRefused("no")

    monkeypatch.setattr(type(till.returns.payments.provider), "refund", refuse)
    for _ in range(2):
        with pytest.raises(RefundRefused):
            till.refund(reference, 10)
    monkeypatch.undo()
    with pytest.raises(RefundRefused, match="another reference"):
        till.refund(reference, 10)
    till.refund(reference, 10, "ticket 2")
    assert till.balance == 15


def test_a_refund_in_the_dashboard_is_recorded_and_can_fail_later(till: Till) -> None:
    reference = till.paid(25)
    refund = till.stripe.refund(reference, 1000)
    for _ in range(2):
        till.settle_refunds(reference)
    assert till.balance == 15
    till.stripe.fail_refund(refund["id"])
    for _ in range(2):
        till.settle_refunds(reference)
    assert (till.balance, till.status(reference)) == (25, [ReturnStatus.REVERSED])
    assert not audit(till.settings).differences


def test_a_refund_in_the_dashboard_beyond_the_balance_is_a_loss(till: Till) -> None:
    reference = till.paid(25)
    till.reserve(19)
    till.stripe.refund(reference, 2000)
    till.settle_refunds(reference)
    assert (till.balance, till.account.reserved_micros) == (19, 19 * DOLLAR)
    assert till.books == {"cash": -5, "reserved": 19, "losses": -14}
    today = till.platform.cause.now.date()
    with connect(till.settings) as connection:
        (day,) = platform_days(connection, today, today)
    sums = {name: day[name] // DOLLAR for name in ("payments", "returns", "losses")}
    assert sums == {"payments": 25, "returns": 20, "losses": 14}
    assert not audit(till.settings).differences


def test_a_refund_beyond_the_balance_that_fails_later_is_undone(till: Till) -> None:
    reference = till.paid(25)
    till.reserve(19)
    refund = till.stripe.refund(reference, 2000)
    till.settle_refunds(reference)
    assert till.status(reference) == [ReturnStatus.CLOSED]
    till.stripe.fail_refund(refund["id"])
    for _ in range(2):
        till.settle_refunds(reference)
    assert (till.balance, till.status(reference)) == (25, [ReturnStatus.REVERSED])
    assert till.books == {"cash": -25, "customer": 6, "reserved": 19}
    today = till.platform.cause.now.date()
    with connect(till.settings) as connection:
        (day,) = platform_days(connection, today, today)
        (row,) = returns_of(connection, till.person.account_id)
    assert (day["returns"], day["losses"], row["lost_micros"]) == (0, 0, 0)
    assert not audit(till.settings).differences


def test_a_lost_dispute_whose_money_is_reinstated_is_undone(till: Till) -> None:
    reference = till.paid(25)
    till.reserve(15)
    dispute = till.stripe.dispute(reference, 2500)
    for outcome in ("lost", "won"):
        till.stripe.close(dispute["id"], outcome)
        for _ in range(2):
            till.settle_dispute(dispute["id"])
    assert (till.balance, till.status(reference)) == (25, [ReturnStatus.REVERSED])
    assert till.books == {"cash": -25, "customer": 10, "reserved": 15}
    assert not audit(till.settings).differences


@pytest.mark.parametrize(
    ("outcome", "balance", "books"),
    [
        ("won", 25, {"cash": -25, "customer": 10, "reserved": 15}),
        ("lost", 15, {"reserved": 15, "losses": -15}),
    ],
)
def test_a_dispute_takes_the_available_balance_and_its_end_decides(
    till: Till, outcome: str, balance: int, books: dict[str, int]
) -> None:
    reference = till.paid(25)
    till.reserve(15)
    dispute = till.stripe.dispute(reference, 2500)
    for _ in range(2):
        till.settle_dispute(dispute["id"])
    assert (till.balance, till.account.available_micros) == (15, 0)
    assert till.books == {"reserved": 15, "returns": -15}
    till.stripe.close(dispute["id"], outcome)
    for _ in range(2):
        till.settle_dispute(dispute["id"])
    assert till.balance == balance
    assert till.books == books
    assert not audit(till.settings).differences


def test_a_lost_dispute_takes_what_became_available(till: Till) -> None:
    reference = till.paid(25)
    till.reserve(15)
    dispute = till.stripe.dispute(reference, 2500)
    till.settle_dispute(dispute["id"])
    till.reserve(-5)
    till.stripe.close(dispute["id"], "lost")
    till.settle_dispute(dispute["id"])
    assert till.balance == 10
    assert till.books == {"reserved": 10, "losses": -10}
    assert not audit(till.settings).differences


def test_a_question_of_a_bank_and_foreign_objects_change_nothing(till: Till) -> None:
    reference = till.paid(25)
    dispute = till.stripe.dispute(reference, 2500)
    till.stripe.close(dispute["id"], "warning_closed")
    till.settle_dispute(dispute["id"])
    assert (till.balance, till.status(reference)) == (25, [])


def test_a_dispute_that_overtakes_the_payment_confirms_it_first(till: Till) -> None:
    reference = till.paid(25, confirmed=False)
    dispute = till.stripe.dispute(reference, 2500)
    till.settle_dispute(dispute["id"])
    assert (till.balance, till.status(reference)) == (0, [ReturnStatus.RETURNED])
    assert isinstance(till.returns.returning.find(reference), Payment)


@pytest.mark.parametrize("way", ["refund", "dispute"])
def test_an_operator_cannot_confirm_a_payment_that_was_returned(till: Till, way: str) -> None:
    reference, provider = till.paid(25, confirmed=False), till.returns.payments.provider
    assert provider.receipt(reference, 25 * DOLLAR).reference == reference
    if way == "refund":
        till.stripe.refund(reference, 100)
    else:
        till.stripe.dispute(reference, 2500)
    with pytest.raises(Invalid) as refusal:
        provider.receipt(reference, 25 * DOLLAR)
    assert refusal.value.field == "reference"


def test_the_audit_finds_a_return_without_its_part_in_the_balance(till: Till) -> None:
    reference = till.paid(25)
    with because(till.platform.cause):
        payment = till.returns.returning.load(reference)
        payment.request_refund("forged", 5 * DOLLAR)
        till.platform.log.commit(payment)
    till.platform.project()
    assert [each.kind.value for each in audit(till.settings).differences] == ["unpaired"]
