"""Automatic top-ups of low balances through Stripe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from psycopg_pool import ConnectionPool

from domain.billing.account import Account
from domain.billing.auto_top_up import AutoTopUp, AutoTopUpEnd, AutoTopUpRule
from domain.billing.suspension import SuspensionReason
from domain.core.aggregate import because
from domain.core.event_log import EventLog
from domain.use_cases.erasing import Erasing, Holdings
from domain.use_cases.payments import Paying
from domain.use_cases.returns import Returning
from extensions.card_payments.auto_top_up_rows import accounts_to_top_up
from extensions.card_payments.charging import AutoTopUps
from extensions.card_payments.payment_rows import newest_card_payments
from extensions.card_payments.payments import CHARGE_LIFE, KEY_LIFE, CardPayments
from extensions.card_payments.reconciliation import CONFIRMATION_TIME, Reconciliation
from extensions.card_payments.returns import CardReturns
from extensions.card_payments.stripe_client import StripeProvider
from extensions.card_payments.stripe_provider import (
    ChargeResponse,
    ChargeStatus,
    stripe_provider,
)
from infrastructure.payments.provider import CardOrder, ProviderUnavailable
from infrastructure.postgres.log_identity import set_held
from infrastructure.postgres.store import Connection, connect
from infrastructure.settings import Settings
from services.projector.audit import audit
from tests.builders.commands import FixedClock
from tests.builders.platform import Person, Platform
from tests.extensions.card_payments.localstripe.process import DECLINED, NEEDS_APPROVAL, LocalStripe

DOLLAR = 1_000_000
CARD = "4242424242424242"


@dataclass
class Purse:
    """A person with a saved card, a balance and a rule."""

    platform: Platform
    stripe: LocalStripe
    payments: CardPayments
    top_ups: AutoTopUps
    reconciliation: Reconciliation
    clock: FixedClock
    person: Person
    reference: str = ""
    """Reference of the payment that saved the card."""

    def save_card(self, number: str = CARD) -> None:
        """Pay $5 by card, and save it. A declined card is one that fails only later."""
        with because(self.platform.cause):
            order = CardOrder(uuid4(), self.person.account_id, 5 * DOLLAR, saves_card=True)
            payment, _ = self.payments.start(order, "http://x/billing/p")
            assert payment.checkout is not None
            self.stripe.pay(payment.checkout, number=CARD, saved=number)
            self.reference = str(getattr(self.payments.settle(payment.id), "reference", None))
            self.payments.auto.set_rule(
                self.person.account_id,
                AutoTopUpRule(
                    threshold_micros=10 * DOLLAR,
                    amount_micros=25 * DOLLAR,
                    month_max_micros=60 * DOLLAR,
                ),
            )

    def run(self) -> int:
        self.platform.project()
        return self.top_ups.top_up()

    def reconcile(self, after: timedelta = CONFIRMATION_TIME) -> None:
        self.platform.project()
        self.clock.time = max(self.clock.time, datetime.now(UTC)) + after + timedelta(seconds=1)
        self.reconciliation.reconcile()

    def reserve_all(self) -> None:
        with because(self.platform.cause):
            account = self.account
            account.settle(captured_micros=0, reserved_micros=account.available_micros)
            self.platform.log.commit(account)

    @property
    def account(self) -> Account:
        return self.platform.log.load(Account, self.person.account_id)

    @property
    def rule(self) -> AutoTopUp:
        found = self.payments.auto.find(self.person.account_id)
        assert found is not None
        return found

    @property
    def balance(self) -> int:
        return self.account.balance_micros // DOLLAR


@pytest.fixture
def purse(
    settings: Settings,
    log: EventLog,
    pool: ConnectionPool[Connection],
    local_stripe: LocalStripe,
) -> Purse:
    provider = stripe_provider()
    assert provider is not None
    platform, clock = Platform(settings, log), FixedClock(datetime.now(UTC))
    payments = CardPayments(Paying(log), provider)
    top_ups = AutoTopUps(clock, pool, payments)
    reconciliation = Reconciliation(clock, log, pool, CardReturns(Returning(log), payments))
    person = platform.person()
    return Purse(platform, local_stripe, payments, top_ups, reconciliation, clock, person)


def test_a_low_balance_is_topped_up_once(purse: Purse, settings: Settings) -> None:
    purse.save_card()
    made = purse.stripe.count("payment_intent")
    assert purse.run() == 1
    assert purse.balance == 30
    assert purse.run() == 0
    assert purse.stripe.count("payment_intent") == made + 1
    assert not audit(settings).differences


def test_two_processes_start_one_charge(purse: Purse, monkeypatch: pytest.MonkeyPatch) -> None:
    purse.save_card()
    purse.platform.project()
    log, other = purse.platform.log, purse.top_ups
    commit = log.commit

    def race(*aggregates: object, **given: object) -> None:
        monkeypatch.undo()
        other.top_up()  # the other process is faster
        commit(*aggregates, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(log, "commit", race)
    purse.top_ups.top_up()
    assert purse.balance == 30


def test_accounts_that_no_charge_can_help_are_not_listed(purse: Purse) -> None:
    def listed(now: datetime) -> bool:
        purse.platform.project()
        with connect(purse.platform.settings) as connection:
            return purse.person.account_id in accounts_to_top_up(connection, now)

    now = purse.clock.time.replace(day=1)
    purse.save_card()
    with because(purse.platform.cause):
        purse.payments.auto.set_rule(
            purse.person.account_id,
            AutoTopUpRule(
                threshold_micros=100 * DOLLAR,
                amount_micros=25 * DOLLAR,
                month_max_micros=60 * DOLLAR,
            ),
        )
    assert listed(now)
    with because(purse.platform.cause):
        purse.platform.ecolink.suspend(purse.person.account_id, SuspensionReason.PAYMENT)
    assert not listed(now)
    with because(purse.platform.cause):
        purse.platform.ecolink.reinstate(purse.person.account_id)
    assert (purse.run(), purse.run(), purse.balance) == (1, 1, 55)
    assert not listed(now)
    assert listed(now + timedelta(days=32))
    with because(purse.platform.cause):
        purse.payments.auto.set_rule(
            purse.person.account_id,
            AutoTopUpRule(
                threshold_micros=100 * DOLLAR,
                amount_micros=25 * DOLLAR,
                month_max_micros=75 * DOLLAR,
            ),
        )
    assert listed(now)


def test_a_failed_charge_does_not_count_towards_the_month(purse: Purse) -> None:
    purse.save_card(DECLINED)
    for _ in range(3):
        assert purse.run() == 1
        with because(purse.platform.cause):
            assert purse.rule.rule is not None
            purse.payments.auto.set_rule(purse.person.account_id, purse.rule.rule)
    purse.platform.project()
    with connect(purse.platform.settings) as connection:
        assert accounts_to_top_up(connection, purse.clock.time) == [purse.person.account_id]


def test_leased_money_counts_as_balance_until_it_is_charged(purse: Purse) -> None:
    """The charge starts below the threshold, before the balance reaches zero and jobs pause."""
    purse.save_card()
    purse.reserve_all()
    assert purse.account.available_micros == 0
    assert purse.run() == 1
    assert (purse.balance, purse.account.available_micros) == (30, 25 * DOLLAR)


def test_a_replaced_card_is_removed_at_stripe(purse: Purse) -> None:
    purse.save_card()
    first = purse.rule.card
    purse.save_card()
    card = purse.rule.card
    assert card is not None
    assert card != first
    assert purse.stripe.cards(card.customer) == [card.payment_method]


def test_a_card_that_a_charge_uses_is_not_removed(
    purse: Purse, monkeypatch: pytest.MonkeyPatch
) -> None:
    purse.save_card()
    with monkeypatch.context() as patched:
        patched.setattr(type(purse.payments.provider), "charge", _not_responding)
        purse.run()
    purse.save_card()
    assert len(purse.stripe.cards(purse.rule.customer)) == 2
    purse.reconcile()
    assert purse.balance == 35


def test_the_payment_counts_if_stripe_does_not_remove_the_replaced_card(
    purse: Purse, monkeypatch: pytest.MonkeyPatch
) -> None:
    purse.save_card()
    monkeypatch.setattr(type(purse.payments.provider), "remove_card", _not_responding)
    purse.save_card()
    assert purse.balance == 10


@pytest.mark.parametrize(
    ("number", "end"),
    [
        (DECLINED, AutoTopUpEnd.DECLINED),
        (NEEDS_APPROVAL, AutoTopUpEnd.AUTHENTICATION_REQUIRED),
    ],
)
def test_a_failed_charge_turns_top_ups_off(purse: Purse, number: str, end: AutoTopUpEnd) -> None:
    purse.save_card(number)
    assert purse.run() == 1
    assert (purse.balance, purse.rule.enabled, purse.rule.ended) == (5, False, end)
    assert purse.run() == 0


@pytest.mark.parametrize("received", [True, False])
def test_a_charge_without_an_answer_is_made_once(
    purse: Purse, monkeypatch: pytest.MonkeyPatch, received: bool
) -> None:
    purse.save_card()
    provider, made = type(purse.payments.provider), purse.stripe.count("payment_intent")
    monkeypatch.setattr(provider, "charge", _answer_lost(provider, received=received))
    assert purse.run() == 1
    assert purse.balance == 5
    assert purse.run() == 0
    monkeypatch.undo()
    purse.reconcile()
    assert purse.balance == 30
    assert purse.stripe.count("payment_intent") == made + 1


def test_a_pass_ends_when_stripe_does_not_respond(
    purse: Purse, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = purse.person
    purse.save_card()
    purse.person = purse.platform.person()
    purse.save_card()
    monkeypatch.setattr(type(purse.payments.provider), "charge", _not_responding)
    assert [purse.run(), purse.run(), purse.run()] == [1, 1, 0]
    monkeypatch.undo()
    purse.reconcile()
    assert purse.balance == 30
    purse.person = first
    assert purse.balance == 30


@pytest.mark.parametrize(("received", "balance"), [(True, 30), (False, 5)])
def test_after_a_long_outage_a_charge_is_looked_up_and_not_repeated(
    purse: Purse, monkeypatch: pytest.MonkeyPatch, received: bool, balance: int
) -> None:
    purse.save_card()
    provider = type(purse.payments.provider)
    monkeypatch.setattr(provider, "charge", _answer_lost(provider, received=received))
    purse.run()
    purse.reconcile(after=CHARGE_LIFE)
    assert purse.balance == balance
    assert purse.rule.enabled is received
    assert purse.rule.charge is None


@pytest.mark.parametrize("received", [True, False])
def test_after_an_hour_a_charge_is_looked_up_before_it_is_sent_again(
    purse: Purse, monkeypatch: pytest.MonkeyPatch, received: bool
) -> None:
    purse.save_card()
    provider, made = type(purse.payments.provider), purse.stripe.count("payment_intent")
    with monkeypatch.context() as patched:
        patched.setattr(provider, "charge", _answer_lost(provider, received=received))
        purse.run()
    purse.stripe.forget_keys()
    purse.reconcile(after=KEY_LIFE)
    assert purse.balance == 30
    assert purse.stripe.count("payment_intent") == made + 1


@pytest.mark.parametrize("received", [True, False])
@pytest.mark.parametrize("unwanted", ["off", "suspended", "erased"])
def test_a_pending_charge_that_is_no_longer_wanted_is_only_looked_up(
    purse: Purse, monkeypatch: pytest.MonkeyPatch, unwanted: str, received: bool
) -> None:
    purse.save_card()
    provider, account_id = type(purse.payments.provider), purse.person.account_id
    customer = purse.rule.customer
    with monkeypatch.context() as patched:
        patched.setattr(provider, "charge", _answer_lost(provider, received=received))
        purse.run()
    with because(purse.platform.cause):
        if unwanted == "off":
            purse.payments.auto.disable(account_id)
        else:
            purse.platform.ecolink.suspend(account_id, SuspensionReason.PAYMENT)
        if unwanted == "erased":
            erasing = Erasing(purse.platform.log, purse.payments.provider.remove_cards)
            erasing.erase(account_id, Holdings())
            assert purse.stripe.cards(customer) == []
    made = purse.stripe.count("payment_intent")
    purse.reconcile()
    assert purse.balance == (30 if received else 5)
    assert purse.rule.charge is None
    assert purse.stripe.count("payment_intent") == made


def test_a_return_turns_top_ups_off_once(purse: Purse) -> None:
    purse.save_card()
    returns = purse.reconciliation._returns
    rule, account_id = purse.rule.rule, purse.person.account_id
    assert rule is not None
    reference = purse.reference

    def again() -> bool:
        """Turn top-ups on again, and settle the same returns."""
        with because(purse.platform.cause):
            purse.payments.auto.set_rule(account_id, rule)
            returns.settle_refunds(reference)
            returns.settle_dispute(dispute)
        return purse.rule.enabled

    dispute = purse.stripe.dispute(reference, 100)["id"]
    with because(purse.platform.cause):
        returns.settle_dispute(dispute)
    assert (purse.run(), purse.rule.ended) == (0, AutoTopUpEnd.FAILED)
    assert again()
    with because(purse.platform.cause):
        returns.refund(account_id, reference, DOLLAR, "ticket 1")
    assert (purse.run(), purse.rule.ended) == (0, AutoTopUpEnd.FAILED)
    assert again()
    purse.stripe.refund(reference, 100)
    with because(purse.platform.cause):
        returns.settle_refunds(reference)
    assert (purse.run(), purse.rule.ended) == (0, AutoTopUpEnd.FAILED)
    assert again()
    assert purse.run() == 1


def test_a_lost_dispute_that_takes_more_turns_top_ups_off(purse: Purse) -> None:
    purse.save_card()
    returns, rule = purse.reconciliation._returns, purse.rule.rule
    assert rule is not None
    purse.reserve_all()
    dispute = purse.stripe.dispute(purse.reference, 500)["id"]
    with because(purse.platform.cause):
        returns.settle_dispute(dispute)
        purse.platform.ecolink.grant_credit(purse.person.account_id, DOLLAR, "sorry")
        purse.payments.auto.set_rule(purse.person.account_id, rule)
    purse.stripe.close(dispute, "lost")
    with because(purse.platform.cause):
        returns.settle_dispute(dispute)
    assert (purse.run(), purse.rule.enabled) == (0, False)


def test_a_charge_that_succeeds_after_it_failed_is_added_once(
    purse: Purse, monkeypatch: pytest.MonkeyPatch
) -> None:
    purse.save_card()
    provider = type(purse.payments.provider)
    charge = provider.charge

    def decline(*asked: object) -> ChargeResponse:
        charge(*asked)  # type: ignore[arg-type]
        return ChargeResponse(ChargeStatus.DECLINED)

    monkeypatch.setattr(provider, "charge", decline)
    assert (purse.run(), purse.balance) == (1, 5)
    purse.platform.project()
    with connect(purse.platform.settings) as connection:
        (payment, *_) = newest_card_payments(connection, purse.person.account_id, None, 1)
    for _ in range(2):
        with because(purse.platform.cause):
            purse.payments.settle(payment["id"])
    assert purse.balance == 30
    assert purse.rule.ended is AutoTopUpEnd.DECLINED


def test_neither_a_suspended_account_nor_a_removed_card_is_charged(purse: Purse) -> None:
    purse.save_card()
    with because(purse.platform.cause):
        purse.platform.ecolink.suspend(purse.person.account_id, SuspensionReason.PAYMENT)
    assert purse.run() == 0
    with because(purse.platform.cause):
        purse.platform.ecolink.reinstate(purse.person.account_id)
        purse.payments.auto.remove_card(purse.person.account_id)
    assert purse.run() == 0
    assert purse.balance == 5


def test_a_restored_copy_charges_a_card_once_after_the_confirmation(
    purse: Purse, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    purse.save_card()
    made = purse.stripe.count("payment_intent")
    with connect(settings) as connection, monkeypatch.context() as patch:
        set_held(connection, True)
        assert purse.run() == 0
        set_held(connection, False)
        patch.setattr(StripeProvider, "charge", _not_responding)
        assert purse.run() == 1  # the charge is pending now
        set_held(connection, True)
    purse.reconcile()
    assert purse.stripe.count("payment_intent") == made
    with connect(settings) as connection:
        set_held(connection, False)
    purse.reconcile()
    assert (purse.stripe.count("payment_intent"), purse.balance) == (made + 1, 30)


def _answer_lost(provider: type[StripeProvider], *, received: bool) -> Callable[..., None]:
    charge = provider.charge

    def lose_the_answer(*asked: object) -> None:
        if received:
            charge(*asked)  # type: ignore[arg-type]
        raise ProviderUnavailable

    return lose_the_answer


def _not_responding(*_: object) -> None:
    raise ProviderUnavailable
