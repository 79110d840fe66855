"""Receivers for the tests of alerts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.extensions.alerts.webhook import Webhook, webhook
from tests.gateway.ops.conftest import operator as operator


@pytest.fixture
def ops() -> Iterator[Webhook]:
    """A receiver."""
    with webhook() as receiver:
        yield receiver
