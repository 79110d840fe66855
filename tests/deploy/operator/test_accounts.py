"""Operator commands on accounts, keys and models, on a store without services."""

from __future__ import annotations

import pytest

from deploy.local.errors import StackError
from deploy.operator import model_import
from domain.catalog.base_model import BaseModel
from domain.core.identity import base_model_id
from domain.use_cases.accounts import EcoLink
from infrastructure.base_models.imported_model import ImportedModel
from infrastructure.postgres.store import connect, open_log
from infrastructure.settings import Settings
from tests.builders.tiny_model import TINY_SHAPE
from tests.deploy.operator.command_line import ecolink


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
