"""Work beside the reactions: a bounded number of tasks at once, one of each account."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from uuid import UUID

REMEMBERED_ACCOUNTS = 10_000
"""Accounts whose last turn is known; the others come first."""


class FairWork:
    """Threads that each run one task; accounts take turns.

    Nothing is queued here: what waits is found again in the read models, also after a restart.
    """

    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self._size = size
        self._lock = threading.Condition()
        self._running: set[UUID] = set()
        self._turns: dict[UUID, None] = {}  # accounts in the order of their last turn
        self._logger = logging.getLogger(name)

    def start_in_turn(self, waiting: Mapping[UUID, Callable[[], None]]) -> None:
        """Start tasks while a thread is free; accounts go first that waited longest for a turn."""
        with self._lock:
            turns = {account: turn for turn, account in enumerate(self._turns)}
        for account in sorted(waiting, key=lambda account: turns.get(account, -1)):
            self.start(account, waiting[account])

    def start(self, account_id: UUID, task: Callable[[], None]) -> bool:
        """Run a task in a thread, unless all are busy or the account has one; returns if it runs.

        What the task raises is logged.
        """
        with self._lock:
            if len(self._running) >= self._size or account_id in self._running:
                return False
            self._running.add(account_id)
            self._turns.pop(account_id, None)
            self._turns[account_id] = None
            if len(self._turns) > REMEMBERED_ACCOUNTS:
                del self._turns[next(iter(self._turns))]
        # Daemons: a process that has to end does not wait for them; its children end with it.
        threading.Thread(
            target=self._run, args=[account_id, task], name=self._name, daemon=True
        ).start()
        return True

    def rest(self, seconds: float) -> None:
        """Wait until a task ends, for so long at most."""
        with self._lock:
            self._lock.wait(seconds)

    def finish(self, seconds: float) -> bool:
        """Wait until no task runs; returns False if that takes longer."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._running, seconds)

    def _run(self, account_id: UUID, task: Callable[[], None]) -> None:
        try:
            task()
        except Exception:
            self._logger.exception("a task failed")
        finally:
            with self._lock:
                self._running.discard(account_id)
                self._lock.notify_all()
