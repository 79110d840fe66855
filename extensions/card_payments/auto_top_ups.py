"""Saved cards and automatic top-ups of an account."""

from __future__ import annotations

import logging

from domain.billing.auto_top_up import AutoTopUp, AutoTopUpRule
from domain.core.aggregate import because
from domain.core.money import payment_micros_of
from domain.use_cases.auto_top_ups import AutoToppingUp
from extensions.card_payments.schemas import AutoTopUpRequest, AutoTopUpResponse
from extensions.card_payments.service import cards_of
from extensions.card_payments.stripe_provider import stripe_provider
from gateway.backend import Backend
from gateway.http.access import Caller
from gateway.schemas import Money

log = logging.getLogger("auto_top_ups")


def auto_top_up(backend: Backend, caller: Caller) -> AutoTopUpResponse:
    """Return the automatic top-ups of the caller."""
    return _answer(backend, AutoToppingUp(backend.log).find(caller.account_id))


def set_auto_top_up(
    backend: Backend, caller: Caller, wanted: AutoTopUpRequest
) -> AutoTopUpResponse:
    """Turn automatic top-ups on, if payments by card are enabled and a card is saved."""
    rule = AutoTopUpRule(
        threshold_micros=payment_micros_of(wanted.threshold, field="threshold"),
        amount_micros=payment_micros_of(wanted.amount, field="amount"),
        month_max_micros=payment_micros_of(wanted.month_max, field="month_max"),
    )
    with because(caller.cause(backend)):
        return _answer(backend, cards_of(backend).auto.set_rule(caller.account_id, rule))


def turn_off(backend: Backend, caller: Caller) -> AutoTopUpResponse:
    """Turn automatic top-ups off. The card stays saved."""
    with because(caller.cause(backend)):
        AutoToppingUp(backend.log).disable(caller.account_id)
    return auto_top_up(backend, caller)


def remove_card(backend: Backend, caller: Caller) -> AutoTopUpResponse:
    """Remove the saved card, also at the provider, and turn automatic top-ups off.

    Without a provider in the settings, EcoLink only forgets the card. Raise ProviderUnavailable.
    Then EcoLink no longer charges the card, but the provider still has it.
    """
    auto = AutoToppingUp(backend.log)
    known = auto.find(caller.account_id)
    if known is not None and known.card is not None:
        with because(caller.cause(backend)):
            auto.disable(caller.account_id)
            provider = stripe_provider()
            if provider is not None:
                provider.remove_cards(known.customer)
            else:
                log.warning("Stripe is not configured and keeps the card of %s", known.customer)
            auto.remove_card(caller.account_id)
    return auto_top_up(backend, caller)


def _answer(backend: Backend, known: AutoTopUp | None) -> AutoTopUpResponse:
    rule = None if known is None else known.rule
    now = backend.clock.now()
    used = 0 if known is None else known.month_micros_at(now)
    return AutoTopUpResponse(
        card_saved=known is not None and known.card is not None,
        enabled=known is not None and known.enabled,
        threshold=None if rule is None else Money.price(rule.threshold_micros),
        amount=None if rule is None else Money.price(rule.amount_micros),
        month_max=None if rule is None else Money.price(rule.month_max_micros),
        month_used=Money.of(used),
        month_full=known is not None and known.is_month_full_at(now),
        charging=known is not None and known.charge is not None,
        ended=None if known is None else known.ended,
    )
