"""Projections for tests, updated together. The projector updates each separately."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from psycopg import sql

from domain.core.event_log import EventLog
from infrastructure.consumer import recorded
from infrastructure.settings import Settings
from infrastructure.store import CHANNEL, Connection, connect, open_log
from projections import PROJECTIONS

LOOK_SECONDS, AT_ONCE = 0.2, 500


def project(log: EventLog, connection: Connection) -> None:
    """Project new events of the log, and store the position of every projection."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('project'))")
        rows = cursor.execute("SELECT name, position FROM projection_positions").fetchall()
        positions = {each.name: 0 for each in PROJECTIONS}
        positions |= {row["name"]: row["position"] for row in rows}
        last = min(positions.values())
        while batch := log.recorder.select_notifications(
            start=last, limit=AT_ONCE, inclusive_of_start=False
        ):
            found = [recorded(log, notification) for notification in batch]
            for projection in PROJECTIONS:
                position = positions[projection.name]
                projection.take(cursor, [each for each in found if each.id > position])
            last = batch[-1].id
        cursor.execute(
            "INSERT INTO projection_positions SELECT unnest(%s::text[]), %s "
            "ON CONFLICT (name) DO UPDATE SET position = "
            "greatest(projection_positions.position, excluded.position)",
            [[each.name for each in PROJECTIONS], last],
        )


@contextmanager
def projecting(settings: Settings) -> Iterator[None]:
    """Follow the log with all projections until the end of the block."""
    ended = Event()
    with (
        open_log(settings, pool_size=1) as log,
        connect(settings) as connection,
        connect(settings) as heard,
    ):
        heard.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))

        def follow() -> None:
            while not ended.is_set():
                project(log, connection)
                for _ in heard.notifies(timeout=LOOK_SECONDS, stop_after=1):
                    pass

        thread = Thread(target=follow)
        thread.start()
        yield
        ended.set()
        with connect(settings) as woken:
            woken.execute(sql.SQL("NOTIFY {}").format(sql.Identifier(CHANNEL)))
        thread.join()
