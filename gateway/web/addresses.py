"""What an address asks of a page: read from its query, and written back with a change."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from pydantic import BeforeValidator


def _given(value: object) -> object:
    return value or None


Given = BeforeValidator(_given)
"""A field of a form that was left blank was not asked for."""


def query_of(fields: Mapping[str, object]) -> str:
    """The query of an address, without what is not asked for."""
    return urlencode({name: value for name, value in fields.items() if value})
