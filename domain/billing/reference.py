"""References of payments and credits, in the form that accounting software uses."""

from __future__ import annotations

import re

from domain.core.errors import Invalid

REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:/#-]{0,99}")
"""Letters, digits and separators. Neither e-mail addresses nor spreadsheet formulas match."""


def reference_of(text: str) -> str:
    """Return `text` with normalized white space. Raise Invalid if it is not a valid reference."""
    reference = " ".join(text.split())
    if not REFERENCE.fullmatch(reference):
        raise Invalid(
            f"The reference {text[:100]!r} is invalid. Use 1 to 100 letters, digits, spaces or "
            "the characters . _ : / # -. Begin with a letter or digit.",
            field="reference",
        )
    return reference
