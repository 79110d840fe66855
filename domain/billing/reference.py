"""Reference: what a payment or a credit is known by, as people and accounting software write it."""

from __future__ import annotations

import re

from domain.core.errors import Invalid

REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:/#-]{0,99}")
"""Letters, digits and what separates them; the log holds no e-mail, and no formula."""


def reference_of(text: str) -> str:
    """A reference with its spaces in order; raises Invalid for what is none."""
    reference = " ".join(text.split())
    if not REFERENCE.fullmatch(reference):
        raise Invalid(
            "a reference has 1 to 100 letters, digits, spaces or . _ : / # -, "
            "and begins with a letter or digit",
            field="reference",
        )
    return reference
