"""References of payments and credits, as accounting software writes them."""

from __future__ import annotations

import re

from domain.core.errors import Invalid

REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:/#-]{0,99}")
"""Letters, digits and separators. No e-mail address and no spreadsheet formula matches."""


def reference_of(text: str) -> str:
    """Return a reference with its white space normalised. Raises Invalid for other text."""
    reference = " ".join(text.split())
    if not REFERENCE.fullmatch(reference):
        raise Invalid(
            f"The reference {text[:100]!r} is invalid. Use 1 to 100 letters, digits, spaces or "
            ". _ : / # -, and begin with a letter or digit.",
            field="reference",
        )
    return reference
