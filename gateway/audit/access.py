"""Access to the pages for auditors."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from gateway.audit.service import Auditor
from gateway.backend import Backend
from infrastructure.store import Connection, connect

LONGEST_QUERY = "30s"


@contextmanager
def reading(backend: Backend) -> Generator[Connection]:
    """Open a connection that only reads. Queries of an audit never occupy the gateway's pool."""
    with connect(backend.settings) as connection:
        connection.execute("SELECT set_config('default_transaction_read_only', 'on', false)")
        connection.execute("SELECT set_config('statement_timeout', %s, false)", [LONGEST_QUERY])
        yield connection


@contextmanager
def auditing(backend: Backend) -> Generator[Auditor]:
    """Open an auditor's view of the log."""
    with reading(backend) as connection:
        yield Auditor(connection)
