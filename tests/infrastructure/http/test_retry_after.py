"""Delays that servers request."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx
import pytest

from infrastructure.http.retry_after import requested_delay

NOW = datetime(2026, 11, 29, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0),
        (" 120 ", 120),
        ("9" * 40, 999_999_999),
        ("Sun, 29 Nov 2026 06:02:00 GMT", 120),
        ("Sun, 29 Nov 2026 06:02:00 -0000", 120),
        ("Sat, 28 Nov 2020 06:00:00 GMT", 0),
        ("Sun, 29 Nov 99999 06:00:00 GMT", None),
        ("soon", None),
        ("-5", None),
        ("", None),
        ("²", None),
    ],
)
def test_a_header_requests_a_delay(header: str, seconds: int | None) -> None:
    response = httpx.Response(503, headers=[(b"retry-after", header.encode())])
    expected = None if seconds is None else timedelta(seconds=seconds)
    assert requested_delay(response, NOW) == expected


def test_a_response_without_the_header_requests_none() -> None:
    assert requested_delay(httpx.Response(429), NOW) is None
