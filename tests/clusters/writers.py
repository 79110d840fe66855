"""Writers that append events through a failover, and record what was acknowledged."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from uuid import UUID, uuid4

import psycopg
from eventsourcing.persistence import PersistenceError

from domain.access.role import Role
from domain.billing.account import Account
from domain.core.aggregate import Cause, because
from domain.core.errors import VersionConflict
from infrastructure.postgres.store import open_log
from infrastructure.settings import Settings


@dataclass(frozen=True)
class Acknowledged:
    """An event whose save returned, with the monotonic time at which it did."""

    account_id: UUID
    version: int
    at: float


@dataclass
class Writers:
    """Threads with a log of their own, each of which appends to one account."""

    settings: Settings
    pause_seconds: float = 0.0
    acknowledged: list[Acknowledged] = field(default_factory=list)
    conflicts: int = 0
    failures: int = 0
    _stopping: threading.Event = field(default_factory=threading.Event)

    def write(self) -> None:
        """Append events until stopped. Retry failed saves from the state of the log."""
        with open_log(self.settings, cached=10) as log:
            account_id = uuid4()
            while not self._stopping.wait(self.pause_seconds):
                cause = Cause("test:writer", str(uuid4()), datetime.now(UTC))
                try:
                    with because(cause):
                        found = log.find(Account, account_id)
                        account = found or Account.open(account_id, Role.OWNER, "UTC")
                        account.grant_credit(1, str(uuid4()))
                        log.commit(account)
                except VersionConflict:
                    self.conflicts += 1
                except (PersistenceError, psycopg.Error) as error:
                    self.failures += 1
                    logging.getLogger("writers").info("cannot write: %s", error)
                else:
                    now = time.monotonic()
                    self.acknowledged.append(Acknowledged(account_id, account.version, now))

    def longest_pause(self) -> float:
        """Return the longest time in seconds between two acknowledgements of any writers."""
        times = sorted(each.at for each in self.acknowledged)
        return max(later - earlier for earlier, later in pairwise(times))

    @contextmanager
    def running(self, count: int) -> Iterator[None]:
        """Run the threads during the block."""
        threads = [threading.Thread(target=self.write) for _ in range(count)]
        for each in threads:
            each.start()
        try:
            yield
        finally:
            self._stopping.set()
            for each in threads:
                each.join()
