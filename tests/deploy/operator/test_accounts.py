"""Operator commands on accounts, keys and models, on a store without services."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from deploy.local.errors import StackError
from deploy.operator import model_import
from deploy.processes import environment
from domain.catalog.base_model import BaseModel
from domain.core.event_log import EventLog
from domain.core.identity import base_model_id
from domain.use_cases.accounts import EcoLink
from domain.use_cases.payments import Paying
from infrastructure.accounts.profiles import account_id_of
from infrastructure.base_models.imported_model import ImportedModel
from infrastructure.payments.card_payments import CardPayments
from infrastructure.payments.stripe_provider import stripe_provider
from infrastructure.postgres.store import connect, open_log
from infrastructure.settings import Settings
from services.projector.audit import audit
from tests.builders.commands import command
from tests.builders.tiny_model import TINY_SHAPE
from tests.conftest import own_database
from tests.deploy.operator.command_line import ecolink
from tests.localstripe.process import LocalStripe


def test_accounts_and_credit() -> None:
    ecolink("accounts", "create", "alice")
    ecolink("accounts", "create", "alice", exit_code=1)
    ecolink("accounts", "create", "root", "--role", "operator", "--time-zone", "Asia/Tokyo")
    for name in ("", " x", "x" * 101):
        assert "1 to 100 characters" in ecolink("accounts", "create", name, exit_code=1)
    assert "Moon" in ecolink("accounts", "create", "x", "--time-zone", "Moon", exit_code=1)
    for _ in range(2):
        credited = ecolink("accounts", "credit", "alice", "25", "--reference", "invoice-1")
        assert "$25.00" in credited
    ecolink("accounts", "credit", "alice", "0.0000001", "--reference", "y", exit_code=1)
    ecolink("accounts", "top-up", "alice", "5.005", "--reference", "x", exit_code=1)
    assert "bob" in ecolink("accounts", "credit", "bob", "1", "--reference", "z", exit_code=1)
    listed = ecolink("accounts", "list")
    assert "alice" in listed
    assert "$25.00" in listed
    assert "operator" in listed


def test_an_account_is_suspended_and_reinstated() -> None:
    ecolink("accounts", "create", "alice")
    ecolink("accounts", "create", "root", "--role", "operator")
    ecolink("accounts", "suspend", "alice", exit_code=2)
    suspended = ecolink("accounts", "suspend", "alice", "--reason", "payment")
    assert "A payment failed or is disputed." in suspended
    assert "payment" in ecolink("accounts", "list")
    assert "reinstate" in ecolink("accounts", "keys", "issue", "alice", exit_code=1)
    ecolink("accounts", "suspend", "root", "--reason", "other", exit_code=1)
    ecolink("accounts", "reinstate", "alice")
    assert "payment" not in ecolink("accounts", "list")
    ecolink("accounts", "keys", "issue", "alice")


def test_a_suspended_account_is_erased_after_its_name_is_repeated(settings: Settings) -> None:
    made = ecolink("accounts", "create", "alice")
    account_id = made.split()[-1]
    ecolink("accounts", "keys", "issue", "alice", "--name", "laptop of alice")
    erase = ("accounts", "erase", "alice")
    assert "Suspend it first" in ecolink(*erase, "--confirm", "alice", exit_code=1)
    ecolink("accounts", "suspend", "alice", "--reason", "request")
    assert "Nothing was erased" in ecolink(*erase, "--confirm", "bob", exit_code=1)
    assert "2 rows and 0 files" in ecolink(*erase, "--confirm", "alice")
    listed = ecolink("accounts", "list")
    assert "alice" not in listed
    assert "erased" in listed
    assert "Unknown account" in ecolink(*erase, "--confirm", "alice", exit_code=1)
    again = ecolink("accounts", "erase", account_id, "--confirm", account_id)
    assert "0 rows and 0 files" in again
    with connect(settings) as connection:
        assert connection.execute("SELECT 1 FROM key_names").fetchall() == []
    ecolink("accounts", "create", "alice")


def test_a_read_model_that_differs_is_rebuilt(settings: Settings) -> None:
    ecolink("accounts", "create", "alice")
    ecolink("accounts", "create", "bob")
    listed = ecolink("accounts", "list")
    with connect(settings) as connection:
        connection.execute("UPDATE accounts SET balance_micros = 7")
    assert ecolink("accounts", "list") != listed
    ecolink("projections", "rebuild", "accounts")
    assert ecolink("accounts", "list") == listed
    assert "nonesuch" in ecolink("projections", "rebuild", "nonesuch", exit_code=1)


def test_keys(settings: Settings) -> None:
    ecolink("accounts", "create", "alice")
    ecolink("accounts", "create", "bob")
    secret = ecolink("accounts", "keys", "issue", "alice").split()[-1]
    with open_log(settings) as log:
        key = EcoLink(log).authenticate(secret)
        assert key is not None
        assert secret[-4:] in ecolink("accounts", "keys", "list", "alice")
        assert str(key.id) not in ecolink("accounts", "keys", "list", "bob")
        ecolink("accounts", "keys", "revoke", "bob", str(key.id), exit_code=1)
        ecolink("accounts", "keys", "revoke", "alice", str(key.id))
        assert EcoLink(log).authenticate(secret) is None


def test_an_auditor_and_a_member_have_keys() -> None:
    ecolink("accounts", "create", "vera", "--role", "auditor")
    ecolink("accounts", "create", "alice")
    assert "member" in ecolink("accounts", "create", "bob", "--role", "member", exit_code=1)
    ecolink("accounts", "keys", "issue", "vera", "--name", "audit 2026", "--expires", "30d")
    listed = ecolink("accounts", "keys", "list", "vera")
    assert "audit 2026" in listed
    assert "auditor" in listed
    member = ("accounts", "keys", "issue", "alice", "--role", "member", "--scope")
    ecolink(*member, "train")
    assert "billing" in ecolink(*member, "billing", exit_code=1)
    ecolink("accounts", "keys", "issue", "alice", "--expires", "soon", exit_code=2)


def test_an_imported_base_model_is_offered(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def imported(_: Settings, source: str, name: str) -> ImportedModel:
        return ImportedModel(
            name=name,
            ref=f"models/{name}",
            manifest_sha256="22",
            source=source,
            architecture="LlamaForCausalLM",
            shape=TINY_SHAPE,
            has_chat_template=False,
        )

    monkeypatch.setattr(model_import, "run_import", imported)
    assert "30,496 parameters" in ecolink("models", "import", "someone/tiny-1.5.gguf")
    with open_log(settings) as log:
        base = log.load(BaseModel, base_model_id("tiny-1.5"))
    assert base.revision.shape == TINY_SHAPE


def test_a_listed_repository_gets_its_catalog_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names: list[str] = []

    def imported(_: Settings, source: str, name: str) -> ImportedModel:
        names.append(name)
        raise StackError("enough")

    monkeypatch.setattr(model_import, "run_import", imported)
    repository = "HuggingFaceTB/SmolLM2-135M-Instruct"
    ecolink("models", "import", repository, exit_code=1)
    ecolink("models", "import", repository, "--name", "mine", exit_code=1)
    assert names == ["smollm2-135m-instruct", "mine"]


def test_a_payment_by_card_is_confirmed_and_refunded(
    settings: Settings, local_stripe: LocalStripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    refund = ("accounts", "refund", "alice", "10", "--reference", "ticket 17", "--payment")
    ecolink("accounts", "create", "alice")
    assert "ECOLINK_STRIPE_SECRET_KEY" in ecolink(*refund, "pi_1", exit_code=1)
    for name, value in environment(local_stripe.settings(settings)).items():
        monkeypatch.setenv(name, value)
    with open_log(settings) as log, connect(settings) as connection:
        account_id = account_id_of(connection, "alice")
        assert account_id is not None
        provider = stripe_provider(local_stripe.settings(settings))
        assert provider is not None
        with command():
            payments = CardPayments(Paying(log), provider)
            payment, _ = payments.start(uuid4(), account_id, 25_000_000, "http://x/billing/p")
    assert payment.checkout is not None
    reference = local_stripe.pay(payment.checkout)["payment_intent"]
    top_up = ("accounts", "top-up", "alice", "25", "--provider", "stripe", "--reference")
    assert "succeeded" in ecolink(*top_up[:3], "24", *top_up[4:], reference, exit_code=1)
    for _ in range(2):
        assert "$25.00" in ecolink(*top_up, reference)
    for _ in range(2):
        assert "$15.00" in ecolink(*refund, reference)
    assert "pi_unknown" in ecolink(*refund, "pi_unknown", exit_code=1)


def test_a_restored_log_gets_the_payments_that_only_stripe_has(
    log: EventLog,
    servers: Settings,
    settings: Settings,
    local_stripe: LocalStripe,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Payments before and after the backup: each counts once, with its refunds and disputes."""
    target = str(tmp_path_factory.mktemp("backups"))
    recover = ("accounts", "recover-payments", "--since")
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    assert "ECOLINK_STRIPE_SECRET_KEY" in ecolink(*recover, now, exit_code=1)
    for name, value in environment(local_stripe.settings(settings)).items():
        monkeypatch.setenv(name, value)
    provider = stripe_provider(local_stripe.settings(settings))
    assert provider is not None
    payments = CardPayments(Paying(log), provider)

    def start(name: str, dollars: int) -> Callable[..., str]:
        with connect(settings) as connection, command(str(uuid4())):
            account_id = account_id_of(connection, name)
            assert account_id is not None
            amount_micros = dollars * 1_000_000
            payment, _ = payments.start(uuid4(), account_id, amount_micros, "http://x/billing/p")

        def pay(**how: object) -> str:
            assert payment.checkout is not None
            session = local_stripe.pay(payment.checkout, **how)
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
    local_stripe.refund(paid[1], 300)
    dispute = local_stripe.dispute(disputed, 700)["id"]
    with own_database(servers, tmp_path_factory.mktemp("home") / "elsewhere") as elsewhere:
        for name, value in environment(local_stripe.settings(elsewhere)).items():
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
