"""The delay that a server requests with `Retry-After`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx

SECOND_DIGITS = 9
"""Digits of a requested delay that EcoLink reads. They are enough for 30 years."""


def requested_delay(response: httpx.Response, now: datetime) -> timedelta | None:
    """Return a response's delay, from seconds or a time (RFC 9110, 10.2.3), at least 0."""
    value = response.headers.get("retry-after", "").strip()
    try:
        if value.isascii() and value.isdigit():
            return timedelta(seconds=int(value[:SECOND_DIGITS]))
        at = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return max(timedelta(), (at if at.tzinfo else at.replace(tzinfo=UTC)) - now)
