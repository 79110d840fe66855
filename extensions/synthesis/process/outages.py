"""Outages of the database and of the artifact store, which are no errors of a run."""

from __future__ import annotations

import psycopg
from eventsourcing.persistence import PersistenceError

from infrastructure.artifacts.store import DENIED, STORE_ERRORS

OUTAGES = (psycopg.Error, PersistenceError, *STORE_ERRORS)


def is_outage(error: Exception) -> bool:
    """Return True if the database or store is unreachable, and for groups of only such errors."""
    if isinstance(error, ExceptionGroup):
        return all(is_outage(each) for each in error.exceptions)
    return isinstance(error, OUTAGES) and not isinstance(error, (*DENIED, FileNotFoundError))
