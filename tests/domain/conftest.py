"""Given events, when a command, then events or a refusal: what such tests share."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from domain.core.aggregate import Cause, because

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def cause() -> Iterator[Cause]:
    """Every command of a test has this cause."""
    with because(Cause("account:test", "command-1", NOW, "event-0")) as cause:
        yield cause
