"""`ecolink audit invoice`: an invoice is made on the host and verified anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from domain.audit.tree_head import LogKey
from domain.core.event_log import EventLog
from extensions.invoices.invoice_file import verify_file
from infrastructure.accounts.profiles import add_account_name
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.log_identity import log_identity
from infrastructure.postgres.store import connect
from infrastructure.seals.archive import SealArchive, load_key, make_key, origin_of
from infrastructure.settings import Settings
from services.sealer.sealer import Sealer
from tests.builders.bills import Bills
from tests.builders.examples import ACCOUNT_ID
from tests.deploy.operator.command_line import ecolink
from tests.deploy.operator.conftest import _configured  # noqa: F401
from tests.extensions.invoices.bills import two_months
from tests.polling import eventually


@pytest.fixture
def billed(settings: Settings, log: EventLog) -> Iterator[None]:
    """The account `alice` with bills of two months, all sealed."""
    two_months(log)
    Bills(log, account_id=IDLE).history.open_account(9_000_000)
    with connect(settings) as store:
        add_account_name(store, ACCOUNT_ID, "alice")
        key = make_key(settings.seal_key_file)
        archive = SealArchive(Artifacts(settings.artifacts))
        origin = origin_of(log_identity(store))
        sealer = Sealer(archive, origin, key, lambda: datetime.now(UTC))
        while sealer.step(store):
            pass
        sealer.export()
        yield


IDLE = UUID(int=8)
"""An account without events since October."""

OCTOBER = ("--from", "2026-10-01", "--until", "2026-11-01")


@pytest.mark.full
@pytest.mark.usefixtures("billed")
@pytest.mark.parametrize("kind", ["json", "pdf"])
def test_an_invoice_is_verified_with_the_public_key_alone(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / f"invoice.{kind}"
    ecolink("audit", "invoice", "create", "alice", *OCTOBER, "--out", str(file))
    public = ecolink("audit", "key").strip()
    for name in ("ECOLINK_DATABASE_URL", "ECOLINK_NATS_URL", "ECOLINK_HOME"):
        monkeypatch.setenv(name, "")
    shown = ecolink("audit", "invoice", "verify", str(file), "--public-key", public)
    assert "$9.00" in shown
    assert "The invoice is proven." in shown
    assert ("pages" in shown) == (kind == "pdf")
    asked = ("audit", "invoice", "verify", str(file), "--public-key", public, "--json")
    document = json.loads(ecolink(*asked))
    assert document["result"] == "proven"
    assert document["is_complete"]
    assert document["invoice"]["credits_micros"] == 9_000_000

    file.write_bytes(file.read_bytes().replace(b"0", b"1", 1))
    assert "NOT proven" in ecolink(*asked[:-1], exit_code=1)
    document = json.loads(ecolink(*asked, exit_code=1))
    assert document["result"] == "failed"
    assert not document["is_complete"]


@pytest.mark.usefixtures("billed")
def test_an_invoice_without_a_later_event_is_not_proven_to_be_complete(tmp_path: Path) -> None:
    file = tmp_path / "invoice.pdf"
    ecolink("audit", "invoice", "create", str(IDLE), *OCTOBER, "--out", str(file))
    asked = (
        "audit",
        "invoice",
        "verify",
        str(file),
        "--public-key",
        ecolink("audit", "key").strip(),
    )
    shown = ecolink(*asked, exit_code=9)
    assert "The invoice is NOT proven to be complete" in shown
    assert "is proven" not in shown
    document = json.loads(ecolink(*asked, "--json", exit_code=9))
    assert document["failures"] == []
    assert document["result"] == "completeness_not_proven"
    assert not document["is_complete"]


@pytest.mark.usefixtures("billed")
def test_an_installation_that_was_idle_since_the_period_makes_an_invoice(
    tmp_path: Path, settings: Settings
) -> None:
    """Given a newest head that was sealed before the period ended."""
    with connect(settings) as store:
        log_key = LogKey(
            origin_of(log_identity(store)), load_key(settings.seal_key_file).public_key()
        )
    newest = SealArchive(Artifacts(settings.artifacts)).last_head(log_key)
    assert newest is not None
    end = newest.sealed_at + timedelta(milliseconds=1)
    eventually(lambda: datetime.now(UTC) >= end)
    until, file = end.strftime("%Y-%m-%dT%H:%M:%S.%f+00:00"), tmp_path / "a.json"
    ecolink(
        "audit", "invoice", "create", "alice", *OCTOBER[:2], "--until", until, "--out", str(file)
    )
    assert verify_file(file.read_bytes(), log_key).failures == []


@pytest.mark.usefixtures("billed")
def test_an_account_has_a_name_and_an_id(tmp_path: Path) -> None:
    files = [tmp_path / "1.json", tmp_path / "2.json"]
    for account, file in zip(("alice", str(ACCOUNT_ID)), files, strict=True):
        ecolink("audit", "invoice", "create", account, *OCTOBER, "--out", str(file))
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.usefixtures("billed")
def test_a_wrong_option_is_named(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for arguments, reason in (
        (("bob", *OCTOBER, "--out", "a.json"), "Unknown account 'bob'"),
        (("alice", *OCTOBER, "--out", "a.txt"), "ends in .pdf or .json"),
        (("alice", "--out", "a.json"), "--period"),
        (("alice", "--period", "2026-10", *OCTOBER, "--out", "a.json"), "--period"),
        (("alice", "--period", "2026-99", "--out", "a.json"), "2026-99"),
        (("alice", "--period", "2999-01", "--out", "a.json"), "in the future"),
        (
            ("alice", "--from", "2026-11-01", "--until", "2026-10-01", "--out", "a.json"),
            "later --until",
        ),
    ):
        with subtests.test(" ".join(arguments)):
            named = [str(tmp_path / each) if each.startswith("a.") else each for each in arguments]
            assert reason in ecolink("audit", "invoice", "create", *named, exit_code=1)
            assert list(tmp_path.glob("a.*")) == []


def test_without_a_seal_key_there_is_no_invoice(tmp_path: Path) -> None:
    out = str(tmp_path / "a.json")
    arguments = ("audit", "invoice", "create", str(ACCOUNT_ID), *OCTOBER, "--out", out)
    assert "seal-key.pem" in ecolink(*arguments, exit_code=1)
