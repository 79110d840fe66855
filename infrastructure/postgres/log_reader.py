"""Reads of the event log for audits. They use nothing but the rows of the log itself.

A row that cannot be read is returned as a damaged event and stops nothing.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import args_row, scalar_row
from pydantic import ValidationError
from pydantic_core import from_json

from domain.audit.sealed_event import StoredRow
from domain.core.aggregate import Event
from domain.core.event_log import MAX_EVENTS, event_of
from domain.core.recorded import Recorded
from domain.replay.entry import DamagedEvent, Entry
from infrastructure.extensions import aggregates
from infrastructure.postgres.event_rows import COLUMNS, FETCHED_ROWS

TOPICS = frozenset(kind.TOPIC for each in aggregates() for kind in each.event_classes())
"""Topics of all events. A stored topic is never resolved unless it is one of them."""

ABOUT: LiteralString = (
    "(position(%({0})s::bytea IN state) > 0 OR originator_id = %({0}_id)s OR originator_id IN "
    "(SELECT originator_id FROM ecolink_events "
    "WHERE originator_version = 1 AND position(%({0})s::bytea IN state) > 0))"
)
"""Rows with a text in their state, and all rows of the streams whose first event has it.

The second part finds the later events of deployments, and damaged rows.
"""

TIME_AT: LiteralString = """position('"timestamp":"'::bytea IN state)"""
STATED_TIME: LiteralString = f"substring(state FROM {TIME_AT} + 13 FOR 19)"
"""The seconds of an event's time as they are stored. They need no valid state."""

OFFSETS = timedelta(days=1)
"""More than the offset of any time zone in which a stored time can be."""

UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Selection:
    """The events of an account, of a job, of a period and of some kinds. None selects all.

    `since` is the first moment of the period, and `until` the first moment after it.
    """

    account_id: UUID | None = None
    job_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    topics: tuple[str, ...] | None = None

    def includes(self, entry: Entry) -> bool:
        """Return False for an event outside of the period. The time of a damaged one is unknown."""
        if isinstance(entry, DamagedEvent):
            return True
        at = entry.event.timestamp
        return (self.since is None or self.since <= at) and (self.until is None or at < self.until)


def decoded(row: StoredRow) -> Entry:
    """Return the event in a row, or a damaged event."""
    id, originator, version, topic, state = row
    stream = UUID(bytes=bytes(originator))
    event_id, topic = f"{stream}:{version}", topic or ""
    try:
        if topic not in TOPICS:
            raise ValueError(f"the topic {topic!r} is unknown")
        event: Event = event_of(topic, stream, version, _fields(state))
        if event.timestamp.tzinfo is None:
            raise ValueError(f"the timestamp {event.timestamp.isoformat()} has no time zone")
    except UNREADABLE as error:
        return DamagedEvent(id, event_id, topic, _problem(error))
    return Recorded.of(id, event)


def _fields(state: bytes) -> dict[str, Any]:
    try:
        found = from_json(state)
    except ValueError:
        raise ValueError("the state is not JSON") from None
    if not isinstance(found, dict):
        raise ValueError("the state is not a JSON object")
    return found


def _problem(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error) or type(error).__name__


def _condition(selection: Selection) -> tuple[LiteralString, dict[str, object]]:
    """Return an SQL condition on the account, the job and the kinds, and its values."""
    where: LiteralString = "true"
    values: dict[str, object] = {}
    if selection.account_id is not None:
        where += " AND " + ABOUT.format("account")
        values["account"] = f'"account_id":"{selection.account_id}"'.encode()
        values["account_id"] = selection.account_id
    if selection.job_id is not None:
        where += " AND " + ABOUT.format("job")
        values["job"] = f'"{selection.job_id}"'.encode()
        values["job_id"] = selection.job_id
    if selection.topics is not None:
        where += " AND topic = ANY(%(topics)s)"
        values["topics"] = list(selection.topics)
    return where, values


def _seconds(moment: datetime, shift: timedelta) -> bytes:
    """Return a shifted time as STATED_TIME has it."""
    with suppress(OverflowError):  # on the first and the last day of the calendar
        moment = moment.astimezone(UTC) + shift
    return f"{moment:%Y-%m-%dT%H:%M:%S}".rjust(19, "0").encode()


class EventReader:
    """Reads events through one connection. It implements `domain.replay.causes.LogReader`."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def head(self) -> int:
        """Return the notification ID of the last event, or 0."""
        query = "SELECT coalesce(max(notification_id), 0) AS head FROM ecolink_events"
        with self._connection.cursor(row_factory=args_row(int)) as cursor:
            return cursor.execute(query).fetchone() or 0

    def at(self, id: int) -> Entry | None:
        """Return the event with a notification ID, or None."""
        return next(iter(self._fetch("notification_id = %(id)s", {"id": id})), None)

    def named(self, event_id: str) -> Entry | None:
        """Return the event with an ID, `<originator ID>:<version>`, or None."""
        stream, _, version = event_id.rpartition(":")
        try:
            place = {"stream": UUID(stream), "version": int(version)}
        except ValueError:
            return None
        where: LiteralString = "originator_id = %(stream)s AND originator_version = %(version)s"
        return next(iter(self._fetch(where, place)), None)

    def backwards(self, stream: UUID, topics: Sequence[str], before: int) -> Iterator[Entry]:
        """Yield the events of a stream before a notification ID with these topics, newest first."""
        values = {"stream": stream, "topics": list(topics), "before": before}
        where: LiteralString = (
            "originator_id = %(stream)s AND topic = ANY(%(topics)s) AND "
            "notification_id < %(before)s ORDER BY originator_version DESC "
            "LIMIT 20 OFFSET %(offset)s"
        )
        offset = 0
        while page := self._fetch(where, values | {"offset": offset}):
            yield from page
            offset += len(page)

    def around(self, id: int) -> Sequence[Entry]:
        """Return the events near a notification ID, in log order, at least those of one save."""
        near = {"first": id - MAX_EVENTS, "last": id + MAX_EVENTS}
        where: LiteralString = (
            "notification_id BETWEEN %(first)s AND %(last)s ORDER BY notification_id"
        )
        return self._fetch(where, near)

    def effects(self, cause: Recorded) -> Iterator[Entry]:
        """Yield the events that name an event as their cause, in log order."""
        name = cause.event.event_id
        where: LiteralString = (
            "notification_id > %(id)s AND position(%(name)s::bytea IN state) > 0 "
            "ORDER BY notification_id"
        )
        for entry in self._stream(where, {"id": cause.id, "name": f'"{name}"'.encode()}):
            if isinstance(entry, DamagedEvent) or entry.event.causation_id == name:
                yield entry

    def of_streams(self, streams: Sequence[UUID]) -> Iterator[Entry]:
        """Yield all events of some streams, in log order."""
        where: LiteralString = "originator_id = ANY(%(streams)s) ORDER BY notification_id"
        return self._stream(where, {"streams": list(streams)})

    def select(self, selection: Selection) -> Iterator[Entry]:
        """Yield the selected events, in log order, in constant memory.

        An event concerns an account if it belongs to it, and a job if it names it. Damaged events
        are included if their stream is selected, whatever the period.
        """
        where, values = _condition(selection)
        entries = self._stream(where + " ORDER BY notification_id", values)
        return (entry for entry in entries if selection.includes(entry))

    def search(
        self, selection: Selection, limit: int, *, newest_first: bool, beyond: int | None = None
    ) -> list[Entry]:
        """Return the first selected events, in log order or the newest first.

        `beyond` is the notification ID after which to continue in that order. A damaged event is
        included if its stream is selected, unless its stored time is outside of the period.
        """
        where, values = _condition(selection)
        if selection.since is not None:
            where += f" AND ({TIME_AT} = 0 OR {STATED_TIME} >= %(since)s)"
            values["since"] = _seconds(selection.since, -OFFSETS)
        if selection.until is not None:
            where += f" AND ({TIME_AT} = 0 OR {STATED_TIME} <= %(until)s)"
            values["until"] = _seconds(selection.until, OFFSETS)
        if beyond is not None:
            where += f" AND notification_id {'<' if newest_first else '>'} %(beyond)s"
            values["beyond"] = beyond
        where += f" ORDER BY notification_id {'DESC' if newest_first else 'ASC'}"
        entries = self._stream(where, values, fetched=limit)
        with closing(entries):
            return list(islice((each for each in entries if selection.includes(each)), limit))

    def positions(self, streams: Sequence[UUID]) -> list[int]:
        """Return the notification IDs of all events of some streams, in log order."""
        query = (
            "SELECT notification_id FROM ecolink_events WHERE originator_id = ANY(%s) "
            "ORDER BY notification_id"
        )
        with self._connection.cursor(row_factory=scalar_row) as cursor:
            return cursor.execute(query, [list(streams)]).fetchall()

    def _fetch(self, where: LiteralString, values: Mapping[str, object]) -> list[Entry]:
        with self._connection.cursor(row_factory=args_row(StoredRow), binary=True) as cursor:
            rows = cursor.execute(f"SELECT {COLUMNS} FROM ecolink_events WHERE {where}", values)
            return [decoded(row) for row in rows]

    def _stream(
        self, where: LiteralString, values: Mapping[str, object], fetched: int = FETCHED_ROWS
    ) -> Generator[Entry]:
        with (
            self._connection.transaction(),
            self._connection.cursor(
                f"entries_{uuid4().hex}", row_factory=args_row(StoredRow), binary=True
            ) as cursor,
        ):
            cursor.itersize = fetched
            cursor.execute(f"SELECT {COLUMNS} FROM ecolink_events WHERE {where}", values)
            for row in cursor:
                yield decoded(row)
