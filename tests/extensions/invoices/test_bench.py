"""The benchmark of invoices, in a small simulation."""

from __future__ import annotations

import pytest

from infrastructure.settings import Settings
from tests.extensions.invoices.bench import Recording, measure


@pytest.mark.full
def test_invoices_of_simulated_accounts_equal_the_ledger(settings: Settings) -> None:
    truth = Recording(seed=7, account_count=10)
    truth.run(500)
    counts = measure(settings, truth).counts
    assert counts["difference"] == 0
    assert counts["proven"] == counts["invoices"] == 10
    assert counts["noticed"] == counts["changed"]
    assert counts["charged"] > counts["credited"]
