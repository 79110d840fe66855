"""Command contexts for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from domain.core.aggregate import Cause, because

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


class FixedClock:
    """A clock that stays at noon until a test sets it."""

    def __init__(self, now: datetime = NOW) -> None:
        self.time = now

    def now(self) -> datetime:
        """Return the set time."""
        return self.time

    def at(self, moment: datetime) -> datetime:
        """Return a moment, such as the database's."""
        return moment


@contextmanager
def command(command_id: str = "command-1") -> Iterator[Cause]:
    """Run the block as one command."""
    with because(Cause("account:test", command_id, NOW)) as cause:
        yield cause
