"""`ecolink invoices` against a gateway process and the sealer's work."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from extensions.invoices.invoice_file import verify_file
from extensions.invoices.tables import latest_invoices
from infrastructure.postgres.store import connect
from tests.extensions.invoices.bills import PUBLIC
from tests.gateway.cli.conftest import Owner, meanwhile
from tests.gateway.cli.conftest import me as me
from tests.gateway.cli.conftest import url as url
from tests.polling import eventually

MONTH = ("--month", f"{datetime.now(UTC):%Y-%m}")


@pytest.mark.full
@pytest.mark.parametrize("kind", ["pdf", "json"])
def test_an_invoice_is_created_and_downloaded(
    me: Owner, issue: Callable[[], None], tmp_path: Path, kind: str
) -> None:
    def requested() -> bool:
        with connect(me.platform.settings) as connection:
            return bool(latest_invoices(connection, 1))

    def issue_later() -> None:
        eventually(requested)
        issue()

    out = tmp_path / f"invoice.{kind}"
    sealer = meanwhile(issue_later)
    created = me.read("invoices", "create", *MONTH, "--out", str(out))
    sealer.join()
    assert created["status"] == "ready"
    assert verify_file(out.read_bytes(), PUBLIC).failures == []
    listed = me.run("invoices", "list")
    assert "$10.00" in listed
    assert "ready" in listed


def test_a_wrong_option_is_named(me: Owner, subtests: pytest.Subtests) -> None:
    for arguments, reason in (
        ((*MONTH, "--out", "a.txt"), "ends in .pdf or .json"),
        (("--out", "a.pdf"), "either a month"),
        (("--month", "2999-01", "--out", "a.pdf"), "has not begun"),
        (
            ("--first", "2026-11-02", "--last", "2026-11-01", "--out", "a.pdf"),
            "before the first",
        ),
    ):
        with subtests.test(reason):
            refused = me.refused("invoices", "create", *arguments, code=2)
            assert reason in " ".join(refused.replace("│", " ").split())
            assert not Path(arguments[-1]).exists()
