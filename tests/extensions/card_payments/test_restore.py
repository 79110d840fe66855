"""A restored log gets the payments that only Stripe has."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from deploy.processes import environment
from domain.core.event_log import EventLog
from domain.use_cases.payments import Paying
from extensions.card_payments.payments import CardPayments
from extensions.card_payments.stripe_provider import stripe_provider
from infrastructure.accounts.profiles import account_id_of
from infrastructure.payments.provider import CardOrder
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from services.projector.audit import audit
from tests.builders.commands import command
from tests.conftest import own_database
from tests.deploy.operator.command_line import ecolink
from tests.deploy.operator.conftest import _configured  # noqa: F401
from tests.extensions.card_payments.localstripe.process import LocalStripe

pytestmark = pytest.mark.full


def test_a_restored_log_gets_the_payments_that_only_stripe_has(
    log: EventLog,
    servers: Settings,
    settings: Settings,
    running_stripe: LocalStripe,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Payments before and after the backup: each counts once, with its refunds and disputes."""
    target = str(tmp_path_factory.mktemp("backups"))
    recover = ("accounts", "recover-payments", "--since")
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    assert "ECOLINK_STRIPE_SECRET_KEY" in ecolink(*recover, now, exit_code=1)
    running_stripe.enable(monkeypatch)
    provider = stripe_provider()
    assert provider is not None
    payments = CardPayments(Paying(log), provider)

    def start(name: str, dollars: int) -> Callable[..., str]:
        with connect(settings) as connection, command(str(uuid4())):
            account_id = account_id_of(connection, name)
            assert account_id is not None
            amount_micros = dollars * 1_000_000
            payment, _ = payments.start(
                CardOrder(uuid4(), account_id, amount_micros), "http://x/billing/p"
            )

        def pay(**how: object) -> str:
            assert payment.checkout is not None
            session = running_stripe.pay(payment.checkout, **how)
            with command(str(uuid4())):
                payments.settle(payment.id)
            return session["payment_intent"]

        return pay

    ecolink("accounts", "create", "alice")
    refunded, disputed = start("alice", 25)(), start("alice", 7)()
    pending, changed = start("alice", 5), start("alice", 6)
    ecolink("backup", "create", target)
    ecolink("accounts", "create", "bob")
    paid, unclear = [pending(), start("alice", 10)()], [changed(amount=500), start("bob", 8)()]
    ecolink("accounts", "refund", "alice", "4", "--payment", refunded, "--reference", "ticket 1")
    running_stripe.refund(paid[1], 300)
    dispute = running_stripe.dispute(disputed, 700)["id"]
    with own_database(servers, tmp_path_factory.mktemp("home") / "elsewhere") as elsewhere:
        for name, value in environment(elsewhere).items():
            monkeypatch.setenv(name, value)
        ecolink("backup", "restore", target)
        first, second = ecolink(*recover, now), ecolink(*recover, now)
        listed = ecolink("accounts", "list")
        assert not audit(elsewhere).differences
    for each in paid:
        assert any(each in line and "alice" in line for line in first.splitlines())
    for each in (*paid, refunded, dispute):
        assert each in first
        assert each not in second
    for each in unclear:
        assert each in first
        assert each in second
    assert disputed not in first
    assert "$33.00" in listed  # 25 - 4 + 7 - 7 + 5 + 10 - 3
