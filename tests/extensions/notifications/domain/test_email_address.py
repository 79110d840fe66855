"""Accepted and refused e-mail addresses."""

from __future__ import annotations

import pytest

from domain.core.errors import Invalid
from extensions.notifications.domain.email_address import masked, valid_address

ACCEPTED = ("ada@example.com", " ada+ecolink@mail.example.co.uk ", "o'neil@xn--mnchen-3ya.de")
REFUSED = (
    "",
    "ada",
    "ada@localhost",
    "ada@example..com",
    ".ada@example.com",
    "ada@example.com, eve@example.com",
    "ada@example.com\nBcc: eve@example.com",
    "Ada <ada@example.com>",
    '"a b"@example.com',
    "äda@example.com",
    "a" * 65 + "@example.com",
    "a@" + "b" * 60 + ".example" * 30 + ".com",
)


@pytest.mark.parametrize("text", ACCEPTED)
def test_an_address_is_accepted(text: str) -> None:
    assert valid_address(text) == text.strip()


@pytest.mark.parametrize("text", REFUSED)
def test_a_text_that_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        valid_address(text)
    assert refused.value.field == "email"


def test_a_masked_address_hides_the_name() -> None:
    assert masked("ada@example.com") == "a…@example.com"
