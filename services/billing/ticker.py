"""The ticker, which bills minutes and extends leases, many accounts in one save."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from eventsourcing.persistence import InterfaceError, OperationalError
from psycopg.rows import tuple_row
from psycopg_pool import ConnectionPool

from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.core.aggregate import Aggregate, Cause, because
from domain.core.errors import VersionConflict
from domain.core.event_log import MAX_EVENTS, EventLog
from infrastructure.postgres.loaded_streams import LoadedStreams
from infrastructure.postgres.store import Connection
from infrastructure.process.clock import Clock
from infrastructure.process.metrics import LEASE_LEAD_SECONDS
from services.billing.due import is_due, next_due
from services.billing.evidence import elapsed_seconds
from services.billing.open_accounts import OpenAccount, OpenAccounts, OpenMeter
from services.billing.settlement import SAVE_EVENTS, LeasePolicy, MeteredSegment, settle

EVIDENCE = """
SELECT job_id, segment, elapsed_seconds
FROM unnest(%b::uuid[], %b::integer[]) AS asked (job_id, segment)
JOIN segment_evidence USING (job_id, segment)
"""

STEP_METERS = 1000
"""Meters that are settled before the ticker reads the log again, which may change them."""


@dataclass(frozen=True)
class Settlement:
    """An account with its open meters, settled if it was due, and the number of unsaved events."""

    opened: OpenAccount
    account: Account
    segments: Sequence[MeteredSegment]
    now: datetime
    events: int

    @property
    def aggregates(self) -> list[Aggregate]:
        """The account and its open meters."""
        return [self.account, *(each.meter for each in self.segments)]

    @property
    def needs_another_save(self) -> bool:
        """True if the settlement has as many events as it may have."""
        return self.events >= SAVE_EVENTS


class Ticker:
    """A periodic task that bills the elapsed minutes that the log does not contain yet.

    It keeps the accounts with open meters in memory, up to date with the log, and settles those
    that are due. If the process restarts, it reads them again and catches up. It uses the
    database's time, converted to the platform's clock. One thread may call it. A second thread
    saves accounts while the first one settles the next ones.
    """

    def __init__(
        self, log: EventLog, clock: Clock, pool: ConnectionPool[Connection], policy: LeasePolicy
    ) -> None:
        self._log = log
        self._clock = clock
        self._pool = pool
        self._policy = policy
        self._streams = LoadedStreams(log)
        self._open = OpenAccounts(log, self._streams)
        self._time: datetime | None = None
        self._saver = ThreadPoolExecutor(1, thread_name_prefix="ticker-save")
        self._logger = logging.getLogger("ticker")

    def tick(self) -> int:
        """Settle all accounts that are due. Return the number of settlements.

        If an account fails, the ticker logs the error and settles the other accounts. If an event
        of the log cannot be read, it raises the error.
        """
        with self._pool.connection() as connection:
            now = self._follow(connection)
            waiting = deque(each for each in self._open if each.may_be_due(now))
            settlements = 0
            with because(self._cause()):
                while step := _next_step(waiting):
                    saved, again = self._settle_step(connection, step, now)
                    settlements += saved
                    waiting.extend(again)
                    now = self._follow(connection)
        return settlements

    def _cause(self) -> Cause:
        return Cause("service:billing", f"tick:{uuid4()}", self._clock.now())

    def _follow(self, connection: Connection) -> datetime:
        """Apply the log's new events. Return the time. If it jumps back, check all accounts."""
        now = self._clock.at(self._open.follow(connection))
        if self._time is not None and now < self._time:
            for each in self._open:
                each.changed = True
        self._time = now
        return now

    def _settle_step(
        self, connection: Connection, step: Sequence[OpenAccount], now: datetime
    ) -> tuple[int, list[OpenAccount]]:
        """Settle the accounts that are due, in as few saves as possible.

        Return the number of saved settlements, and the accounts that need another one in this tick.
        Raise OperationalError or InterfaceError if the database is unreachable.
        """
        settlements, again = 0, []
        try:
            for batch, saved in self._saved(_batches(self._unsaved(connection, step, now))):
                if saved:
                    for each in batch:
                        self._note(each)
                    settlements += len(batch)
                    # One save is not enough for an account with many segments.
                    again += [each.opened for each in batch if each.needs_another_save]
                else:
                    self._drop(each.opened for each in batch)
                    again += [each.opened for each in batch if not each.opened.alone]
                    for each in batch:
                        each.opened.alone = True
        except BaseException:
            self._drop(step)
            raise
        return settlements, again

    def _saved(
        self, batches: Iterable[list[Settlement]]
    ) -> Iterator[tuple[list[Settlement], bool]]:
        """Save batches one after another. Yield each, and False if its save failed.

        The iterable calculates the next batch during a save. No account is in two batches.
        """
        saving: tuple[list[Settlement], Future[bool]] | None = None
        try:
            for batch in batches:
                if saving is not None:
                    yield saving[0], saving[1].result()
                # Snapshots need the cause, which a thread does not inherit.
                saving = batch, self._saver.submit(copy_context().run, self._save, batch)
            if saving is not None:
                yield saving[0], saving[1].result()
        finally:
            if saving is not None:  # nothing may be dropped or read again during a save
                wait([saving[1]])

    def _unsaved(
        self, connection: Connection, accounts: Sequence[OpenAccount], now: datetime
    ) -> Iterator[Settlement]:
        needed = [id for each in accounts for id in each.streams]
        self._streams.refresh(connection, needed, self._open.position)
        shown = _evidence(connection, [each for of in accounts for each in of.meters.values()])
        for opened in accounts:
            settlement = self._try_to_settle(opened, shown, now)
            if settlement is not None:
                yield settlement

    def _try_to_settle(
        self, opened: OpenAccount, shown: Mapping[UUID, float], now: datetime
    ) -> Settlement | None:
        """Settle an account if it is due. Return it if it has events to save."""
        try:
            settlement = self._settlement(opened, shown, now)
        except Exception:
            self._logger.exception("settling account %s failed; retrying", opened.id)
            self._drop([opened])
            return None
        if settlement.events:
            return settlement
        self._note(settlement)
        return None

    def _settlement(
        self, opened: OpenAccount, shown: Mapping[UUID, float], now: datetime
    ) -> Settlement:
        account = self._streams.load(Account, opened.id)
        segments = [
            MeteredSegment(
                meter, elapsed_seconds(shown.get(meter.id, 0.0), each.bound_at, now), each.bound_at
            )
            for each in opened.meters.values()
            if not (meter := self._streams.load(Meter, each.id)).closed
        ]
        if opened.changed or is_due(account, segments, self._policy):
            with because(self._cause()):
                settle(account, segments, self._policy)
            for each in segments:
                LEASE_LEAD_SECONDS.observe(each.meter.paid_seconds - each.used_seconds)
        aggregates = (account, *(each.meter for each in segments))
        events = sum(len(each.pending_events) for each in aggregates)
        return Settlement(opened, account, segments, now, events)

    def _note(self, settlement: Settlement) -> None:
        """Note when an account, which is as in the log, can be due again."""
        opened = settlement.opened
        opened.changed = opened.alone = False
        opened.next_due = next_due(
            settlement.account, settlement.segments, settlement.now, self._policy
        )
        if not opened.meters and not settlement.account.low:
            self._open.forget(opened)

    def _drop(self, accounts: Iterable[OpenAccount]) -> None:
        """Forget the state of accounts that may differ from the log, and check them again."""
        for each in accounts:
            each.changed = True
            self._streams.drop(each.streams)

    def _save(self, batch: Sequence[Settlement]) -> bool:
        """Save settlements in one transaction. Return False if this fails, but raise outages."""
        try:
            self._log.commit(*(each for settlement in batch for each in settlement.aggregates))
        except (OperationalError, InterfaceError):
            raise
        except VersionConflict:
            self._logger.info("one of %s changed meanwhile; retrying", _names(batch))
        except Exception:
            self._logger.exception("a save of %s failed; retrying", _names(batch))
        else:
            return True
        return False


def _batches(settlements: Iterable[Settlement]) -> Iterator[list[Settlement]]:
    """Group settlements into saves of at most MAX_EVENTS events, or of one account."""
    batch: list[Settlement] = []
    events = 0
    for settlement in settlements:
        alone = settlement.opened.alone or any(each.opened.alone for each in batch[:1])
        if batch and (alone or events + settlement.events > MAX_EVENTS):
            yield batch
            batch, events = [], 0
        batch.append(settlement)
        events += settlement.events
    if batch:
        yield batch


def _names(batch: Sequence[Settlement]) -> str:
    first = batch[0].opened.id
    return f"account {first}" if len(batch) == 1 else f"{len(batch)} accounts from {first}"


def _next_step(waiting: deque[OpenAccount]) -> list[OpenAccount]:
    step, meters = [], 0
    while waiting and meters < STEP_METERS:
        step.append(waiting.popleft())
        meters += len(step[-1].meters)
    return step


def _evidence(connection: Connection, meters: Sequence[OpenMeter]) -> dict[UUID, float]:
    """Return the reported seconds by meter."""
    bound = {(each.job_id, each.segment): each.id for each in meters if each.bound_at is not None}
    if not bound:
        return {}
    with connection.cursor(binary=True, row_factory=tuple_row) as cursor:
        jobs, segments = [job for job, _ in bound], [segment for _, segment in bound]
        rows = cursor.execute(EVIDENCE, [jobs, segments]).fetchall()
    return {bound[job_id, segment]: seconds for job_id, segment, seconds in rows}
