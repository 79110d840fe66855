"""Access to the pages for auditors."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress
from threading import Event, Timer

import psycopg

from gateway.audit.service import Auditor
from gateway.backend import Backend
from gateway.http.access import Caller
from gateway.http.errors import TookTooLong
from infrastructure.postgres.store import Connection, connect
from infrastructure.settings import Settings

LONGEST_SECONDS = 30.0
"""Maximum seconds of all queries of a page together."""


SHORTER = (
    "Restrict the search to a job or a shorter period, or use `ecolink audit`, which has no limit."
)


@contextmanager
def reading(backend: Backend, caller: Caller, too_long: str = SHORTER) -> Generator[Connection]:
    """Open a read-only connection outside the pool, for `LONGEST_SECONDS`. Raise RateLimited."""
    slots = backend.quotas.slots
    with (
        slots.hold("audits", caller.holder_id),
        slots.hold("all_audits", None),
        connect(backend.settings) as connection,
    ):
        connection.execute("SELECT set_config('default_transaction_read_only', 'on', false)")
        with _limited(connection, backend.settings, too_long):
            yield connection


@contextmanager
def auditing(backend: Backend, caller: Caller) -> Generator[Auditor]:
    """Open an auditor's view of the log. Raise the same errors as `reading`."""
    with reading(backend, caller) as connection:
        yield Auditor(connection)


@contextmanager
def _limited(connection: Connection, settings: Settings, fix: str) -> Generator[None]:
    """End a connection after `LONGEST_SECONDS`, and then raise TookTooLong.

    PostgreSQL's `statement_timeout` limits each fetch of a cursor, not all of them together.
    """
    ended = Event()

    def end() -> None:
        ended.set()
        with suppress(psycopg.Error), connect(settings) as other:
            other.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])

    timer = Timer(LONGEST_SECONDS, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except psycopg.OperationalError:
        if not ended.is_set():
            raise
        raise TookTooLong(f"The audit took longer than {LONGEST_SECONDS:.0f} s. {fix}") from None
    finally:
        timer.cancel()
        timer.join()  # so that it cannot end a later connection with the same process ID
