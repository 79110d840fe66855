"""Projections for tests, updated together, as by the projector."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from threading import Event, Thread

from domain.core.event_log import EventLog
from infrastructure.bus.consumer import OrderedConsumer
from infrastructure.postgres.store import CHANNEL, Connection, connect, open_log, open_pool
from infrastructure.settings import Settings
from projections import PROJECTIONS
from projections.group import ProjectionGroup

POLL_SECONDS = 0.2


def project(log: EventLog, connection: Connection) -> None:
    """Project new events of the log, and store the position of every projection."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('project'))")
        group = ProjectionGroup(PROJECTIONS, lambda: nullcontext(connection))
        OrderedConsumer(group, log).catch_up()


@contextmanager
def projecting(settings: Settings) -> Iterator[None]:
    """Follow the log with all projections until the end of the block."""
    ended = Event()
    with (
        open_pool(settings) as pool,
        open_log(settings, pool=pool) as log,
        connect(settings) as connection,
    ):
        connection.execute(f"LISTEN {CHANNEL}")

        def follow() -> None:
            while not ended.is_set():
                project(log, connection)
                for _ in connection.notifies(timeout=POLL_SECONDS, stop_after=1):
                    pass

        thread = Thread(target=follow)
        thread.start()
        yield
        ended.set()
        with pool.connection() as waking:
            waking.execute(f"NOTIFY {CHANNEL}")
        thread.join()
