"""Threads for tasks, limited in total and per account, with retries of failed tasks."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeVar
from uuid import UUID

from infrastructure.process.backoff import Backoff
from infrastructure.process.clock import Clock
from infrastructure.process.role import current_role

AT_ONCE = 2
REMEMBERED_ACCOUNTS = 10_000
"""Number of accounts whose last turn is remembered. All other accounts go first."""

REMEMBERED_KEYS = 1000

FINISH_SECONDS = 60.0
"""Seconds for which a role that failed waits for its tasks before it starts again."""

Key = TypeVar("Key", bound=Hashable)


class FairWork(Generic[Key]):
    """Threads that each run one task. Accounts take turns.

    There is no queue. The read models list pending work by key, so a restart loses none. The
    threads retry failed tasks with exponential back-off.
    """

    def __init__(self, name: str, clock: Clock, size: int = AT_ONCE) -> None:
        self._name = name
        self._clock = clock
        self._size = size
        self._lock = threading.Condition()
        self._running: set[UUID] = set()
        self._turns: dict[UUID, None] = {}  # accounts in the order of their last turn
        self._backoff = Backoff[Key]()
        self._done = deque[Key](maxlen=REMEMBERED_KEYS)
        self._logger = logging.getLogger(name)
        if (role := current_role()) is not None:
            role.closing.callback(self.finish, FINISH_SECONDS)

    @property
    def excluded(self) -> list[Key]:
        """Keys for the next query to omit: finished ones, which may be listed, and later ones."""
        return [*self._backoff.waiting(self._clock.now()), *self._done]

    @property
    def waiting(self) -> list[Key]:
        """Keys to retry later. The next query omits them, if it does not list finished ones."""
        return list(self._backoff.waiting(self._clock.now()))

    def failures(self, key: Key) -> int:
        """Return the number of failed attempts for a key."""
        return self._backoff.failures(key)

    def start_in_turn(self, waiting: Mapping[UUID, tuple[Key, Callable[[], None]]]) -> None:
        """Start tasks while threads are free. Accounts that have waited longest go first."""
        with self._lock:
            turns = {account: turn for turn, account in enumerate(self._turns)}
        for account in sorted(waiting, key=lambda account: turns.get(account, -1)):
            self.start(account, *waiting[account])

    def start(self, account_id: UUID, key: Key, task: Callable[[], None]) -> bool:
        """Run a task in a thread. Return False if none is free, or the account has a task."""
        with self._lock:
            if len(self._running) >= self._size or account_id in self._running:
                return False
            self._running.add(account_id)
            self._turns.pop(account_id, None)
            self._turns[account_id] = None
            if len(self._turns) > REMEMBERED_ACCOUNTS:
                del self._turns[next(iter(self._turns))]
        # The process does not wait for daemon threads. Their child processes end with it.
        threading.Thread(
            target=self._run, args=[account_id, key, task], name=self._name, daemon=True
        ).start()
        return True

    def wait_for_any(self, seconds: float) -> None:
        """Wait until a task ends, at most `seconds`."""
        with self._lock:
            self._lock.wait(seconds)

    def finish(self, seconds: float) -> bool:
        """Wait until no task runs. Return False if that takes longer than `seconds`."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._running, seconds)

    def _run(self, account_id: UUID, key: Key, task: Callable[[], None]) -> None:
        try:
            task()
        except Exception:
            pause = self._backoff.postpone(key, self._clock.now())
            self._logger.exception("%s failed; retrying in %s", key, pause)
        else:
            self._backoff.reset(key)
            self._done.append(key)
        finally:
            with self._lock:
                self._running.discard(account_id)
                self._lock.notify_all()
