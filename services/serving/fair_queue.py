"""A queue of rows that wait for a slot, shared fairly between accounts."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from threading import Lock
from uuid import UUID

from services.serving.row import Row


class FairQueue:
    """One queue per account. Any thread adds rows, and the engine's thread removes them.

    The account with the fewest running rows is next. Accounts with equal numbers take turns. A
    preempted row goes to the front of its account's queue.
    """

    def __init__(self) -> None:
        self._queues: OrderedDict[UUID, deque[Row]] = OrderedDict()  # in the order of turns
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self.rows())

    def rows(self) -> list[Row]:
        """Return all queued rows."""
        with self._lock:
            return [row for queue in self._queues.values() for row in queue]

    def of(self, account_id: UUID) -> int:
        """Return the number of queued rows of an account."""
        return sum(row.account_id == account_id for row in self.rows())

    def join(self, rows: Iterable[Row]) -> None:
        """Append rows to the queues of their accounts."""
        with self._lock:
            for row in rows:
                self._queues.setdefault(row.account_id, deque()).append(row)

    def send_back(self, row: Row) -> None:
        """Put a preempted row at the front of its account's queue, and let the account go first."""
        with self._lock:
            self._queues.setdefault(row.account_id, deque()).appendleft(row)
            self._queues.move_to_end(row.account_id, last=False)

    def next(self, answered: Iterable[Row]) -> Row | None:
        """Return the next row, given the running rows, or None."""
        busy = Counter(row.account_id for row in answered)
        with self._lock:
            if not self._queues:
                return None
            # The first of equal accounts.
            account_id = min(self._queues, key=lambda each: busy[each])
            return self._queues[account_id][0]

    def leave(self, row: Row) -> None:
        """Remove a row. Its account takes its next turn after all others."""
        with self._lock:
            queue = self._queues[row.account_id]
            queue.remove(row)
            if queue:
                self._queues.move_to_end(row.account_id)
            else:
                del self._queues[row.account_id]

    def forget_cancelled(self) -> None:
        """Remove cancelled rows. The order of accounts does not change."""
        with self._lock:
            for account_id, queue in list(self._queues.items()):
                kept = deque(row for row in queue if not row.cancelled)
                if kept:
                    self._queues[account_id] = kept
                else:
                    del self._queues[account_id]

    def clear(self) -> list[Row]:
        """Remove and return all rows."""
        with self._lock:
            rows = [row for queue in self._queues.values() for row in queue]
            self._queues.clear()
            return rows
