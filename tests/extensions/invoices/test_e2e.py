"""An invoice from the request to the verification, with all processes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from domain.audit.tree_head import LogKey
from extensions.invoices.invoice_file import verify_file
from tests.e2e.test_commands import command
from tests.polling import eventually
from tests.running import EcoLinkUnderTest

pytestmark = pytest.mark.timeout(600)


@pytest.mark.full
def test_an_invoice_is_issued_by_the_sealer_and_verified_offline(
    ecolink: EcoLinkUnderTest, tmp_path: Path
) -> None:
    month = {"month": f"{datetime.now(UTC):%Y-%m}"}
    path = f"/invoices/{ecolink.client.post('/invoices', month)['id']}"
    eventually(lambda: ecolink.client.get(path)["status"] != "preparing", timeout=240)
    assert ecolink.client.get(path)["status"] == "ready", ecolink.client.get(path)["problem"]
    file = tmp_path / "invoice.pdf"
    with ecolink.client.file(f"{path}/invoice.pdf", "") as (_, chunks):
        file.write_bytes(b"".join(chunks))
    key = command(ecolink, "audit", "key")
    public_key, _ = key.communicate(timeout=240)
    verified = verify_file(file.read_bytes(), LogKey.parse(public_key.strip()))
    assert verified.failures == []
    assert verified.invoice is not None
    balance = ecolink.client.get("/account")["balance"]["micros"]
    assert verified.invoice.closing_micros == balance
