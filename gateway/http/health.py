"""Health check of the process."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import Field

from gateway.backend import BackendOf
from gateway.http.errors import refusals
from gateway.http.permissions import PUBLIC
from gateway.schemas import ResponseModel
from infrastructure.process.disk_space import DiskLevel, disk_space

router = APIRouter(tags=["health"], dependencies=[PUBLIC])


class Health(ResponseModel):
    """Health of the process and its database."""

    status: Literal["ok"] = "ok"
    disk: DiskLevel = Field(
        description="Free space on the disk of EcoLink's home. Uploads fail while it is `critical`."
    )


@router.get("/healthz", responses=refusals(503))
def healthz(backend: BackendOf) -> Health:
    """Return 200 if the database responds, otherwise 503."""
    with backend.pool.connection(timeout=1) as connection:
        connection.execute("SELECT 1")
    return Health(disk=disk_space(backend.settings).level)
