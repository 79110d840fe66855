"""Receivers for the tests of alerts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.services.alerts.webhook import Webhook, webhook


@pytest.fixture
def ops() -> Iterator[Webhook]:
    """A receiver."""
    with webhook() as receiver:
        yield receiver
