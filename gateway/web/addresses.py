"""Query strings of page URLs."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from pydantic import BeforeValidator


def _given(value: object) -> object:
    return value or None


Given = BeforeValidator(_given)
"""Validator that treats a blank form field as absent."""


def query_of(fields: Mapping[str, object]) -> str:
    """Return a query string without empty fields."""
    return urlencode({name: value for name, value in fields.items() if value})
