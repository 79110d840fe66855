"""Operator commands on payments by card, on a store without services."""

from __future__ import annotations

from uuid import uuid4

import pytest

from domain.use_cases.payments import Paying
from extensions.card_payments.payments import CardPayments
from extensions.card_payments.stripe_provider import stripe_provider
from infrastructure.accounts.profiles import account_id_of
from infrastructure.payments.provider import CardOrder
from infrastructure.postgres.store import connect, open_log
from infrastructure.settings import Settings
from tests.builders.commands import command
from tests.deploy.operator.command_line import ecolink
from tests.deploy.operator.conftest import _configured  # noqa: F401
from tests.extensions.card_payments.localstripe.process import LocalStripe

pytestmark = pytest.mark.full


def test_a_payment_by_card_is_confirmed_and_refunded(
    settings: Settings, running_stripe: LocalStripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    refund = ("accounts", "refund", "alice", "10", "--reference", "ticket 17", "--payment")
    ecolink("accounts", "create", "alice")
    assert "ECOLINK_STRIPE_SECRET_KEY" in ecolink(*refund, "pi_1", exit_code=1)
    running_stripe.enable(monkeypatch)
    with open_log(settings) as log, connect(settings) as connection:
        account_id = account_id_of(connection, "alice")
        assert account_id is not None
        provider = stripe_provider()
        assert provider is not None
        with command():
            payments = CardPayments(Paying(log), provider)
            payment, _ = payments.start(
                CardOrder(uuid4(), account_id, 25_000_000), "http://x/billing/p"
            )
    assert payment.checkout is not None
    reference = running_stripe.pay(payment.checkout)["payment_intent"]
    top_up = ("accounts", "top-up", "alice", "25", "--provider", "stripe", "--reference")
    assert "succeeded" in ecolink(*top_up[:3], "24", *top_up[4:], reference, exit_code=1)
    for _ in range(2):
        assert "$25.00" in ecolink(*top_up, reference)
    for _ in range(2):
        assert "$15.00" in ecolink(*refund, reference)
    assert "pi_unknown" in ecolink(*refund, "pi_unknown", exit_code=1)
