"""E-mail addresses that EcoLink accepts."""

from __future__ import annotations

import re

from domain.core.errors import Invalid

MAX_LENGTH, MAX_LOCAL_PART = 254, 64
"""Characters of an address and of its part before the @ (RFC 5321, 4.5.3.1)."""

ADDRESS = re.compile(
    r"(?P<local>[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*)"
    r"@(?P<domain>(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]*)"
)
"""An address without quotes, comments and characters outside ASCII."""


def valid_address(text: str) -> str:
    """Return an address without outer spaces, line breaks or commas, or raise Invalid."""
    address = text.strip()
    match = ADDRESS.fullmatch(address)
    if match is None or len(address) > MAX_LENGTH or len(match["local"]) > MAX_LOCAL_PART:
        raise Invalid(
            f"{address[:MAX_LENGTH]!r} is not an e-mail address. Enter one such as "
            "ada@example.com.",
            field="email",
        )
    return address


def masked(address: str) -> str:
    """Return an address of which only the first character and the domain are shown."""
    local, _, domain = address.rpartition("@")
    return f"{local[:1]}…@{domain}"
