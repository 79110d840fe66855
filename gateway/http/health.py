"""Health check of the process."""

from __future__ import annotations

import asyncio
from typing import Literal

import psycopg
from fastapi import APIRouter, Request
from pydantic import Field

from gateway.backend import BackendOf
from gateway.http.errors import refusals
from gateway.http.permissions import PUBLIC
from gateway.schemas import ResponseModel
from infrastructure.postgres.database_url import connection_parameters
from infrastructure.postgres.primary import connect_async
from infrastructure.process.disk_space import DiskLevel, disk_space
from infrastructure.settings import Settings

CHECK_SECONDS = 2.0
"""Seconds in which the database must respond to a check."""

router = APIRouter(tags=["health"], dependencies=[PUBLIC])


class Health(ResponseModel):
    """Health of the process and its database."""

    status: Literal["ok"] = "ok"
    disk: DiskLevel = Field(
        description="Free space on the disk of EcoLink's home. Uploads fail while it is `critical`."
    )


class DatabaseCheck:
    """A check of the database on a connection of its own, without a thread.

    So the gateway also answers while all threads and all connections of the pool are in use.
    """

    def __init__(self, settings: Settings) -> None:
        assert settings.database_url is not None
        self._parameters = connection_parameters(settings.database_url)
        self._connection: psycopg.AsyncConnection | None = None
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Raise psycopg.OperationalError unless the database responds in time."""
        try:
            async with asyncio.timeout(CHECK_SECONDS), self._lock:
                try:
                    if self._connection is None:
                        self._connection = await connect_async(self._parameters)
                    await self._connection.execute("SELECT 1")
                except BaseException:
                    await self.close()
                    raise
        except TimeoutError:
            raise psycopg.OperationalError("The database does not respond.") from None

    async def close(self) -> None:
        """Close the connection. The next check opens another one."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None


@router.get("/healthz", responses=refusals(503))
async def healthz(request: Request, backend: BackendOf) -> Health:
    """Return 200 if the database responds, otherwise 503."""
    await request.app.state.database_check.run()
    return Health(disk=disk_space(backend.settings).level)
