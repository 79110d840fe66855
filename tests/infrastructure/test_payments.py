"""Payment providers: what a reference may be."""

from __future__ import annotations

import pytest

from domain.errors import Invalid
from infrastructure.payments import PROVIDERS, ManualProvider


def test_an_operator_vouches_for_what_arrived() -> None:
    said = ManualProvider().receipt("  INV-7 /  2026 ", 500)
    assert (said.provider, said.reference, said.amount_micros) == ("manual", "INV-7 / 2026", 500)
    assert ManualProvider().receipt("INV-7 / 2026", 500) == said


@pytest.mark.parametrize(
    "reference", ["", "   ", "=1+2", "+1", "-1", "@x", "a@b.example", "a\x00b", "ü", "x" * 101]
)
def test_what_is_no_reference_is_refused(reference: str) -> None:
    with pytest.raises(Invalid) as refusal:
        ManualProvider().receipt(reference, 500)
    assert refusal.value.field == "reference"


def test_providers_are_found_by_their_names() -> None:
    assert {name: provider.name for name, provider in PROVIDERS.items()} == {"manual": "manual"}
