"""The accounts with open meters, in memory. They follow the log, one query at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from eventsourcing.persistence import StoredEvent

from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.core.event_log import EventLog
from domain.jobs.events import PodStarted
from infrastructure.postgres.loaded_streams import LoadedStreams
from infrastructure.postgres.store import Connection
from projections.accounts import ACCOUNTS
from projections.open_meters import OPEN_METERS

POSITION = (
    "SELECT count(*) AS found, min(position) AS position FROM projection_positions "
    "WHERE name = ANY(%s)"
)

NEW_EVENTS = """
SELECT head.id AS head, clock_timestamp() AS now, event.*
FROM (SELECT coalesce(max(notification_id), 0) AS id FROM ecolink_events) AS head
LEFT JOIN (
    SELECT notification_id, originator_id, originator_version, topic,
        CASE WHEN topic = ANY(%(read)s) THEN state END AS state
    FROM ecolink_events WHERE notification_id > %(after)s AND topic = ANY(%(topics)s)
    ORDER BY notification_id LIMIT %(limit)s
) AS event ON true
ORDER BY event.notification_id
"""
"""The end of the log and the database's time, with some new events of accounts and meters."""

PAGE_EVENTS = 10_000
"""Maximum number of events that one query returns."""

READ = [kind.TOPIC for kind in (Meter.MeterOpened, PodStarted)]
"""Events whose fields are needed. Of the others, the version is enough."""

FREQUENT = {Meter.MinuteMetered, Meter.LeaseExtended}
"""Events of meters that come with an event of the account, if another writer stores them."""

TOPICS = READ + [
    kind.TOPIC
    for aggregate in (Account, Meter)
    for kind in aggregate.event_classes()
    if kind not in FREQUENT and kind.TOPIC not in READ
]


@dataclass
class OpenMeter:
    """An open meter, and the start of its pod; None before the start."""

    id: UUID
    account_id: UUID
    job_id: UUID
    segment: int
    bound_at: datetime | None = None


@dataclass
class OpenAccount:
    """An account with open meters, or with a low balance."""

    id: UUID
    meters: dict[UUID, OpenMeter] = field(default_factory=dict)
    alone: bool = False
    """True if its last save failed, so that the next one must not contain other accounts."""
    changed: bool = True
    """True if the account or a meter has new events since its last settlement."""
    next_due: datetime | None = None
    """First moment at which the account can be due without a new event; None: never."""

    def may_be_due(self, now: datetime) -> bool:
        """Return True if the account can be due."""
        return self.changed or (self.next_due is not None and self.next_due <= now)

    @property
    def streams(self) -> list[UUID]:
        """IDs of the account and its open meters."""
        return [self.id, *self.meters]


class OpenAccounts:
    """The accounts with open meters, as of an event of the log.

    They start from the read models at their position, and then apply the new events of the log, so
    that they never lag. They mark the loaded accounts and meters that have new events as stale.
    """

    def __init__(self, log: EventLog, streams: LoadedStreams) -> None:
        self._mapper = log.mapper
        self._streams = streams
        self._position: int | None = None
        self._accounts: dict[UUID, OpenAccount] = {}
        self._meters: dict[UUID, OpenMeter] = {}
        self._segments: dict[tuple[UUID, int], OpenMeter] = {}

    def __iter__(self) -> Iterator[OpenAccount]:
        return iter(list(self._accounts.values()))

    @property
    def position(self) -> int:
        """Notification ID of the last event that `follow` has applied."""
        assert self._position is not None
        return self._position

    def forget(self, account: OpenAccount) -> None:
        """Forget an account without open meters."""
        assert not account.meters
        self._accounts.pop(account.id, None)
        self._streams.drop([account.id])

    def follow(self, connection: Connection) -> datetime:
        """Apply the new events of the log. Return the database's time.

        Raise an error at an event that cannot be applied. The next call starts at this event,
        because a segment whose event was skipped would be neither billed nor extended.
        """
        if self._position is None:
            self._position = self._start(connection)
        values = {"read": READ, "topics": TOPICS, "limit": PAGE_EVENTS}
        while True:
            rows = connection.execute(NEW_EVENTS, values | {"after": self._position}).fetchall()
            for row in rows:
                if row["notification_id"] is not None:
                    self._apply(row)
                    self._position = row["notification_id"]
            if len(rows) < PAGE_EVENTS:
                self._position = rows[0]["head"]
                return rows[0]["now"]

    def _start(self, connection: Connection) -> int:
        """Read the read models. Return their position."""
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            names = [OPEN_METERS.name, ACCOUNTS.name]
            (position,) = connection.execute(POSITION, [names]).fetchall()
            meters = connection.execute("SELECT * FROM open_meters").fetchall()
            low = connection.execute("SELECT account_id FROM accounts WHERE low").fetchall()
        for row in meters:
            self._open(OpenMeter(row.pop("meter_id"), **row))
        for row in low:
            self._account(row["account_id"])
        return position["position"] if position["found"] == len(names) else 0

    def _apply(self, row: dict[str, Any]) -> None:
        id, version, topic = row["originator_id"], row["originator_version"], row["topic"]
        if topic in READ:
            match self._read(row):
                case Meter.MeterOpened() as opened:
                    self._open(OpenMeter(id, opened.account_id, opened.job_id, opened.segment))
                case PodStarted() as started:
                    self._bind(started)
        elif topic == Meter.MeterClosed.TOPIC:
            self._close(id)
        elif self._streams.mark_if_older(id, version):
            self._note_change(id)

    def _read(self, row: dict[str, Any]) -> object:
        """Return the event in a row. If it cannot be read, the error names its notification ID."""
        fields = ("originator_id", "originator_version", "topic", "state")
        try:
            return self._mapper.to_domain_event(StoredEvent(*(row[each] for each in fields)))
        except Exception as error:
            error.add_note(f"Event {row['notification_id']} of the log cannot be read.")
            raise

    def _open(self, meter: OpenMeter) -> None:
        if meter.id not in self._meters:
            self._meters[meter.id] = meter
            self._segments[meter.job_id, meter.segment] = meter
            self._account(meter.account_id).meters[meter.id] = meter
            self._account(meter.account_id).changed = True

    def _bind(self, started: PodStarted) -> None:
        meter = self._segments.get((started.originator_id, started.segment))
        if meter is not None:
            meter.bound_at = started.bound_at
            self._account(meter.account_id).changed = True

    def _close(self, meter_id: UUID) -> None:
        meter = self._meters.pop(meter_id, None)
        if meter is not None:
            del self._segments[meter.job_id, meter.segment]
            account = self._account(meter.account_id)
            del account.meters[meter_id]
            account.changed = True
            self._streams.drop([meter_id])

    def _note_change(self, id: UUID) -> None:
        meter = self._meters.get(id)
        account = self._accounts.get(id if meter is None else meter.account_id)
        if account is not None:
            account.changed = True
            if meter is None:
                self._streams.mark_stale(account.meters)

    def _account(self, account_id: UUID) -> OpenAccount:
        return self._accounts.setdefault(account_id, OpenAccount(account_id))
