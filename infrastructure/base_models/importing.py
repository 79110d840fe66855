"""Whether a base model is being imported, so that pages can say so."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from infrastructure.postgres import named_lock
from infrastructure.postgres.store import Connection, connect
from infrastructure.settings import Settings

LOCK = "base model import"


@contextmanager
def importing(settings: Settings) -> Generator[None]:
    """Show an import until the block ends. Imports may run at the same time."""
    with connect(settings) as connection:
        named_lock.take(connection, LOCK)
        yield


def is_importing(connection: Connection) -> bool:
    """Return True if a process imports a base model."""
    return named_lock.is_held(connection, LOCK)
