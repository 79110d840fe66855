"""Payment providers."""

from __future__ import annotations

import pytest

from domain.core.errors import Invalid
from infrastructure.payments.provider import PROVIDERS, ManualProvider, self_service_provider
from infrastructure.settings import Settings


def test_a_manual_receipt_is_what_the_operator_states() -> None:
    receipt = ManualProvider().receipt("  INV-7 /  2026 ", 500)
    assert (receipt.provider, receipt.reference, receipt.amount_micros) == (
        "manual",
        "INV-7 / 2026",
        500,
    )
    assert ManualProvider().receipt("INV-7 / 2026", 500) == receipt


@pytest.mark.parametrize(
    "reference", ["", "   ", "=1+2", "+1", "-1", "@x", "a@b.example", "a\x00b", "ü", "x" * 101]
)
def test_an_invalid_reference_is_refused(reference: str) -> None:
    with pytest.raises(Invalid) as refusal:
        ManualProvider().receipt(reference, 500)
    assert refusal.value.field == "reference"


def test_providers_are_found_by_their_names() -> None:
    names = {name: provider.name for name, provider in PROVIDERS.items()}
    assert names == {"manual": "manual", "test": "test"}


def test_a_test_payment_is_marked_and_limited() -> None:
    receipt = PROVIDERS["test"].receipt("7", 500_000)
    assert (receipt.provider, receipt.reference) == ("test", "test payment 7")
    for micros in (9_999, 1_000_000_001):
        with pytest.raises(Invalid) as refusal:
            PROVIDERS["test"].receipt("7", micros)
        assert refusal.value.field == "amount"


def test_self_service_top_up_must_be_enabled() -> None:
    assert self_service_provider(Settings()) is None
    assert self_service_provider(Settings(test_payments=True)) is PROVIDERS["test"]
