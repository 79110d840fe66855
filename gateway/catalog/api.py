"""Route of the catalog under /api."""

from __future__ import annotations

from fastapi import APIRouter

from gateway.backend import BackendOf
from gateway.catalog import service
from gateway.catalog.schemas import CatalogResponse
from gateway.http.operations import Operation
from gateway.http.permissions import MayRead

router = APIRouter(prefix="/catalog", tags=["catalog"], route_class=Operation)


@router.get("")
def show_catalog(caller: MayRead, backend: BackendOf) -> CatalogResponse:
    """Show the catalog: GPU types with their rates, regions, the load of each GPU pool, and base
    models.
    """
    return service.show_catalog(backend, caller)
