"""Query strings of page URLs."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from pydantic import BeforeValidator

Given = BeforeValidator(lambda value: value or None)
"""Validator that treats a blank form field as absent."""


def query_of(fields: Mapping[str, object]) -> str:
    """Return a query string without empty fields."""
    return urlencode({name: value for name, value in fields.items() if value})
