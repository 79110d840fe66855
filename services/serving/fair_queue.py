"""Rows that wait for a slot, so that no account waits for all that another has asked."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from threading import Lock
from uuid import UUID

from services.serving.row import Row


class Waiting:
    """Each account has a line of its own. Rows come from any thread, and leave by the engine's.

    The account with the fewest answers in the making is next; among those with equally many,
    accounts take turns. A row that was sent back is the first of its account's line.
    """

    def __init__(self) -> None:
        self._lines: OrderedDict[UUID, deque[Row]] = OrderedDict()  # whose turn it is first
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self.rows())

    def rows(self) -> list[Row]:
        """All of them."""
        with self._lock:
            return [row for line in self._lines.values() for row in line]

    def of(self, account_id: UUID) -> int:
        """How many rows of an account wait."""
        return sum(row.account_id == account_id for row in self.rows())

    def join(self, rows: Iterable[Row]) -> None:
        """Put rows at the end of their accounts' lines."""
        with self._lock:
            for row in rows:
                self._lines.setdefault(row.account_id, deque()).append(row)

    def send_back(self, row: Row) -> None:
        """Put a row that had a slot before the others of its account, whose turn it is."""
        with self._lock:
            self._lines.setdefault(row.account_id, deque()).appendleft(row)
            self._lines.move_to_end(row.account_id, last=False)

    def next(self, answered: Iterable[Row]) -> Row | None:
        """The row whose turn it is, beside those that are answered now; None: nobody waits."""
        busy = Counter(row.account_id for row in answered)
        with self._lock:
            if not self._lines:
                return None
            account_id = min(self._lines, key=lambda each: busy[each])  # the first of the least
            return self._lines[account_id][0]

    def leave(self, row: Row) -> None:
        """Take a row out; its account's next turn comes after everyone else's."""
        with self._lock:
            line = self._lines[row.account_id]
            line.remove(row)
            if line:
                self._lines.move_to_end(row.account_id)
            else:
                del self._lines[row.account_id]

    def forget_cancelled(self) -> None:
        """Drop the rows that nobody listens to any more; nobody loses a turn by it."""
        with self._lock:
            for account_id, line in list(self._lines.items()):
                kept = deque(row for row in line if not row.cancelled)
                if kept:
                    self._lines[account_id] = kept
                else:
                    del self._lines[account_id]

    def clear(self) -> list[Row]:
        """Drop all; returns them."""
        with self._lock:
            rows = [row for line in self._lines.values() for row in line]
            self._lines.clear()
            return rows
