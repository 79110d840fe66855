"""What the handlers work with: the event log, the read models and the artifacts."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from psycopg_pool import ConnectionPool

from domain.application import EcoLink
from domain.event_log import EventLog
from infrastructure.artifacts import Artifacts
from infrastructure.clock import Clock, SystemClock
from infrastructure.settings import Settings
from infrastructure.store import Connection, open_log, open_pool


@dataclass(frozen=True)
class Backend:
    """Open connections of one gateway process."""

    settings: Settings
    log: EventLog
    pool: ConnectionPool[Connection]
    artifacts: Artifacts
    clock: Clock

    @property
    def ecolink(self) -> EcoLink:
        """The use cases."""
        return EcoLink(self.log)


@contextmanager
def open_backend(settings: Settings) -> Generator[Backend]:
    """Connect, and close at the end."""
    with open_log(settings, pool_size=4) as log, open_pool(settings) as pool:
        yield Backend(settings, log, pool, Artifacts(settings.artifacts), SystemClock())


async def backend_of(request: Request) -> Backend:
    """The backend of the application that serves this request."""
    return request.app.state.backend


BackendOf = Annotated[Backend, Depends(backend_of)]
