"""Cutting a restored log after an event, and with it everything that happened later.

The functions run in the transaction that loads the database, or before anything serves it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString

from psycopg import sql

from domain.jobs import events
from domain.replay.entry import DamagedEvent, Entry
from extensions.backup.database import SCHEMA_ROWS, continue_ids
from extensions.backup.target import BackupError
from infrastructure.extensions import extension_tables, installed, processes
from infrastructure.postgres.log_reader import EventReader, Selection
from infrastructure.postgres.store import Connection, scalar

CREATED: dict[str, LiteralString] = {
    "step_measurements": "measured_at",
    "evaluation_measurements": "measured_at",
    "log_lines": "logged_at",
    "security_events": "happened_at",
    "job_drafts": "saved_at",
    "key_uses": "used_at",
    **{each.name: each.time for each in extension_tables() if each.time},
}
"""Tables whose rows are deleted if they are newer than the last event, and their time."""

OWNERS: dict[str, LiteralString] = {
    "profiles": "account_id",
    "dataset_names": "dataset_id",
    "wanted_counts": "dataset_id",
    "key_names": "key_id",
    "job_metadata": "job_id",
    **{each.name: each.aggregate or each.owner for each in extension_tables() if each.owner},
}
"""Tables whose rows belong to an aggregate, which the cut log may lack, and its ID."""

OF_SEGMENTS = ("step_measurements", "evaluation_measurements", "log_lines", "segment_evidence")

RECENT_REACTIONS = 100
"""Reactions of a consumer before the cut, of which the newest event that it handled is known."""

SOURCE: LiteralString = (
    "substring(convert_from(state, 'LATIN1') from '\"command_id\":\"' || %(name)s || "
    "':([0-9]+)\"')::bigint"
)
"""The event that a consumer handled when it added this event, or NULL."""


@dataclass(frozen=True)
class Moment:
    """The last event to restore: by its notification ID, or the last one up to a time."""

    event: int | None = None
    time: datetime | None = None


def last_event_at(store: Connection, moment: Moment) -> int:
    """Return the notification ID of the last event to keep.

    It includes the whole save of that event, because EcoLink relies on saves being complete. Raise
    BackupError if the log has no such event.
    """
    reader = EventReader(store)
    if moment.event is not None:
        wanted = reader.at(moment.event)
        if wanted is None:
            raise BackupError(
                f"The backup has no event {moment.event:,}. Its last event is {reader.head():,}. "
                "`ecolink audit replay` prints the IDs of events."
            )
        return _end_of_save(reader, wanted)
    assert moment.time is not None
    selection = Selection(since=moment.time + timedelta(microseconds=1))
    later = reader.search(selection, 1, newest_first=False)
    if not later:
        return reader.head()
    before = "SELECT max(notification_id) FROM ecolink_events WHERE notification_id < %s"
    last = scalar(store, before, [later[0].id])
    wanted = None if last is None else reader.at(last)
    if wanted is None:
        raise BackupError(f"The log begins after {moment.time.isoformat()}. Choose a later time.")
    return _end_of_save(reader, wanted)


def _end_of_save(reader: EventReader, wanted: Entry) -> int:
    """Return the last of the consecutive events that have the command of an event."""
    last = wanted.id
    if isinstance(wanted, DamagedEvent):
        return last
    for entry in reader.around(wanted.id):
        if entry.id <= last:
            continue
        if isinstance(entry, DamagedEvent) or entry.event.command_id != wanted.event.command_id:
            break
        last = entry.id
    return last


def cut(store: Connection, last: int) -> None:
    """Delete the events after `last` and what belongs to them. Set the positions of consumers.

    A consumer commits its position with the events that it adds. If the cut removes such an event,
    the consumer must handle the cause again, so its position moves before the cause.
    """
    head = scalar(store, "SELECT coalesce(max(notification_id), 0) FROM ecolink_events")
    if last >= head:
        return
    _set_positions(store, last)
    store.execute("DELETE FROM ecolink_events WHERE notification_id > %s", [last])
    continue_ids(store, last)
    final = EventReader(store).at(last)
    tables = _tables(store)
    if final is not None and not isinstance(final, DamagedEvent):
        for table, column in CREATED.items():
            _delete(store, tables, table, sql.SQL(f"{column} > %s"), [final.event.timestamp])
        for name, process in processes(installed()).items():
            if process.rereads:
                _reread(store, name, final.event.timestamp - process.rereads)
    for each in extension_tables():
        if each.event:
            _delete(store, tables, each.name, sql.SQL(f"{each.event} > %s"), [last])
    for table, column in OWNERS.items():
        gone = f"NOT EXISTS (SELECT FROM ecolink_events WHERE originator_id = {column})"
        _delete(store, tables, table, sql.SQL(gone), [])
    _delete_unknown_segments(store)


def _set_positions(store: Connection, last: int) -> None:
    store.execute("DELETE FROM parked_events WHERE notification_id > %s", [last])
    rows = store.execute(f"SELECT * FROM ecolink_tracking WHERE NOT ({SCHEMA_ROWS})")
    for row in rows.fetchall():
        name = row["application_name"]
        values = {"name": name, "last": last, "most": RECENT_REACTIONS}
        lost = _sources(store, name, "notification_id > %(last)s", values)
        handled = max(
            _sources(
                store,
                name,
                "notification_id <= %(last)s ORDER BY notification_id DESC LIMIT %(most)s",
                values,
            ),
            default=0,
        )
        again = [source for source in lost if source <= last]
        # A cause below `handled` was parked, and replayed after the cut.
        _park(store, name, [source for source in again if source <= handled])
        position = min(
            [last, row["notification_id"], *(each - 1 for each in again if each > handled)]
        )
        store.execute("DELETE FROM ecolink_tracking WHERE application_name = %s", [name])
        if position > 0:
            store.execute("INSERT INTO ecolink_tracking VALUES (%s, %s)", [name, position])


def _reread(store: Connection, consumer: str, since: datetime) -> None:
    """Move the position of a consumer back to a time."""
    recent = EventReader(store).search(Selection(since=since), 1, newest_first=False)
    row = store.execute(
        "DELETE FROM ecolink_tracking WHERE application_name = %s RETURNING notification_id",
        [consumer],
    ).fetchone()
    if row is not None and recent:
        position = min(row["notification_id"], recent[0].id - 1)
        if position > 0:
            store.execute("INSERT INTO ecolink_tracking VALUES (%s, %s)", [consumer, position])


def _sources(
    store: Connection, name: str, where: LiteralString, values: dict[str, Any]
) -> list[int]:
    """Return the events that a consumer handled when it added some events."""
    prefix: LiteralString = (
        "position(convert_to('\"command_id\":\"' || %(name)s || ':', 'UTF8') IN state) > 0"
    )
    rows = store.execute(
        f"SELECT {SOURCE} AS source FROM ecolink_events WHERE {prefix} AND {where}", values
    ).fetchall()
    return [row["source"] for row in rows if row["source"] is not None]


def _park(store: Connection, consumer: str, ids: Iterable[int]) -> None:
    for id in ids:
        store.execute(
            "INSERT INTO parked_events (consumer, notification_id, originator_id, topic, error, "
            "replay) SELECT %s, notification_id, originator_id, topic, %s, true "
            "FROM ecolink_events WHERE notification_id = %s ON CONFLICT DO NOTHING",
            [consumer, "It was replayed after the event to which the log was restored.", id],
        )


def _tables(store: Connection) -> set[str]:
    rows = store.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {row["tablename"] for row in rows.fetchall()}


def _delete(
    store: Connection, tables: set[str], table: str, where: sql.SQL, values: list[Any]
) -> None:
    if table in tables:
        query = sql.SQL("DELETE FROM {} WHERE {}").format(sql.Identifier(table), where)
        store.execute(query, values)


def _delete_unknown_segments(store: Connection) -> None:
    """Delete the rows of segments that the log does not have."""
    topics = (events.SegmentAllocated.TOPIC,)
    known = [
        (entry.event.originator_id, entry.event.segment)
        for entry in EventReader(store).select(Selection(topics=topics))
        if not isinstance(entry, DamagedEvent) and isinstance(entry.event, events.SegmentAllocated)
    ]
    jobs, segments = [job for job, _ in known], [segment for _, segment in known]
    for table in OF_SEGMENTS:
        query = sql.SQL(
            "DELETE FROM {} AS found WHERE NOT EXISTS (SELECT FROM unnest(%s::uuid[], %s::int[]) "
            "AS known (job_id, segment) "
            "WHERE (known.job_id, known.segment) = (found.job_id, found.segment))"
        ).format(sql.Identifier(table))
        store.execute(query, [jobs, segments])


def trim_evidence(store: Connection) -> None:
    """Reduce the evidence of open segments to what is billed, after the read models are rebuilt.

    The evidence may show time after the cut, which was not paid for at the cut.
    """
    store.execute(
        "UPDATE segment_evidence AS evidence SET elapsed_seconds = least(elapsed_seconds, "
        "(SELECT coalesce(max(to_seconds), 0) FROM billing_ledger AS billed "
        "WHERE billed.job_id = evidence.job_id AND billed.segment = evidence.segment)) "
        "FROM open_meters AS open "
        "WHERE open.job_id = evidence.job_id AND open.segment = evidence.segment"
    )
