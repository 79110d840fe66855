"""Causes that tests give to what they do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from domain.core.aggregate import Cause, because

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


class FixedClock:
    """It is always noon, until a test says otherwise."""

    def __init__(self, now: datetime = NOW) -> None:
        self.time = now

    def now(self) -> datetime:
        """The time that was set."""
        return self.time

    def at(self, moment: datetime) -> datetime:
        """The moment itself, such as the database's."""
        return moment


@contextmanager
def command(command_id: str = "command-1") -> Iterator[Cause]:
    """What happens inside happens because of this command."""
    with because(Cause("account:test", command_id, NOW)) as cause:
        yield cause
