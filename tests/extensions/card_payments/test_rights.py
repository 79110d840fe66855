"""The roles that settle payments by card have the rights that they need, and no others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from psycopg.conninfo import make_conninfo

from deploy.database_roles import role_of
from domain.billing.account import Account
from domain.billing.auto_top_up import AutoTopUpRule
from domain.core.aggregate import because
from extensions.card_payments.charging import AutoTopUps
from extensions.card_payments.reconciliation import Reconciliation
from extensions.card_payments.returns import card_returns
from infrastructure.payments.provider import CardOrder
from infrastructure.postgres.store import open_log, open_pool
from infrastructure.process.clock import SystemClock
from infrastructure.settings import Settings
from tests.builders.commands import FixedClock
from tests.builders.platform import Platform
from tests.deploy.test_database_roles import PASSWORD, known_passwords, writers_of  # noqa: F401
from tests.extensions.card_payments.localstripe.process import LocalStripe


@pytest.mark.parametrize(
    ("topic", "writers"),
    [
        ("ToppedUp", {"gateway", "billing"}),
        ("PaymentReceived", {"gateway", "billing"}),
        ("PaymentReturned", {"gateway", "billing"}),
        ("TopUpWithheld", {"gateway", "billing"}),
        ("CardPaymentStarted", {"gateway", "billing"}),
        ("AutoTopUpStarted", {"billing"}),
        ("AutoTopUpEnded", {"gateway", "billing"}),
        ("RefundRequested", {"gateway"}),
        ("AutoTopUpSet", {"gateway"}),
        ("CardPaymentConfirmed", {"gateway", "billing"}),
    ],
)
def test_only_the_gateway_and_billing_append_payments(
    settings: Settings, topic: str, writers: set[str]
) -> None:
    assert writers_of(settings, topic) == writers


def test_billing_and_the_gateway_settle_card_payments_with_their_roles(
    settings: Settings, local_stripe: LocalStripe
) -> None:
    """The gateway starts payments and refunds; billing charges cards and reconciles."""
    assert settings.owner_database_url is not None

    def as_service(service: str) -> Settings:
        url = make_conninfo(settings.owner_database_url or "", user=role_of(service))
        url = make_conninfo(url, password=PASSWORD)
        return settings.model_copy(update={"database_url": url, "snapshot_secret": None})

    with open_log(settings) as log:
        platform = Platform(settings, log)
        person = platform.person()
    amounts = {"threshold_micros": 10_000_000, "amount_micros": 25_000_000}
    rule = AutoTopUpRule(**amounts, month_max_micros=60_000_000)
    with open_log(as_service("gateway")) as log, because(platform.cause):
        returns = card_returns(log)
        cards, account_id = returns.payments, person.account_id
        payment, _ = cards.start(CardOrder(uuid4(), account_id, 5_000_000, True), "http://x/p")
        assert payment.checkout is not None
        reference = local_stripe.pay(payment.checkout)["payment_intent"]
        cards.settle(payment.id)
        returns.refund(account_id, reference, 1_000_000, "ticket 17")
        cards.auto.set_rule(account_id, rule)
    dispute = local_stripe.dispute(reference, 400)
    billing = as_service("billing")
    with (
        open_log(billing) as log,
        open_log(settings) as whole,
        open_pool(billing, max_size=2) as pool,
    ):
        returns = card_returns(log)
        Platform(settings, whole).project()
        assert AutoTopUps(SystemClock(), pool, returns.payments).top_up() == 1
        with because(platform.cause):
            returns.settle_dispute(dispute["id"])
            local_stripe.close(dispute["id"], "won")
        Platform(settings, whole).project()
        later = FixedClock(datetime.now(UTC) + timedelta(minutes=10))
        assert Reconciliation(later, log, pool, returns).reconcile() == 1
        assert log.load(Account, account_id).balance_micros == 29_000_000
