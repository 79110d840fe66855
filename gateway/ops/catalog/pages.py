"""The page of the catalog, and forms that change it after a preview."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from domain.catalog.catalog import Catalog
from domain.catalog.catalog_entries import Region
from domain.core.errors import NotFound
from domain.use_cases.catalog import Cataloging, imported_base, new_listing
from gateway.backend import Backend, BackendOf
from gateway.http.permissions import MayReadAll, OperatorDeploys
from gateway.ops.catalog.differences import undeclared
from gateway.ops.catalog.form import CatalogForm, sent_form
from gateway.ops.catalog.preview import preview, save
from gateway.ops.catalog.usage import catalog_usage
from gateway.web.rendering import fragment, page
from projections.gpu_pools import capacities

PATH = "/ops/catalog"

router = APIRouter(prefix=PATH)

FormOf = Annotated[CatalogForm, Depends(sent_form)]


@router.get("")
def show_catalog(
    request: Request,
    caller: MayReadAll,
    backend: BackendOf,
    saved: Annotated[int | None, Query(ge=1)] = None,
) -> Response:
    """Show the entries of the catalog, with the jobs that use each of them.

    `saved` is the version that a change made.
    """
    shown = {"catalog": catalog_usage(backend), "saved": saved}
    return page(request, backend, caller, "ops/catalog_page.html", **shown)


@router.get("/gpu-types")
@router.get("/gpu-types/{name}")
def show_gpu_type(
    request: Request, caller: MayReadAll, backend: BackendOf, name: str | None = None
) -> Response:
    """Show the form of a GPU type, which is empty for a new one."""
    catalog = Cataloging(backend.log).catalog
    entry = None if name is None else catalog.gpu_types.get(name)
    _require(name, entry, "GPU type")
    shown = {"version": catalog.version, "entry": entry}
    return page(request, backend, caller, "ops/gpu_type_page.html", **shown)


@router.get("/regions")
@router.get("/regions/{name}")
def show_region(
    request: Request, caller: MayReadAll, backend: BackendOf, name: str | None = None
) -> Response:
    """Show the forms of a region and its capacity, or that of a new region."""
    catalog = Cataloging(backend.log).catalog
    entry = None if name is None else catalog.regions.get(name)
    _require(name, entry, "region")
    shown = {
        "version": catalog.version,
        "entry": entry,
        "capacities": _capacities(backend, catalog, entry) if entry else {},
    }
    return page(request, backend, caller, "ops/region_page.html", **shown)


@router.get("/bases/{name}")
def show_base(request: Request, name: str, caller: MayReadAll, backend: BackendOf) -> Response:
    """Show the form of a base model that the catalog lists, or that is imported."""
    catalog = Cataloging(backend.log).catalog
    entry = catalog.bases.get(name)
    _require(name, entry or imported_base(backend.log, name), "base model")
    values = entry or new_listing(backend.log, name)
    shown = {"version": catalog.version, "listed": entry is not None, "entry": values}
    return page(request, backend, caller, "ops/base_page.html", **shown)


@router.post("/preview")
def show_preview(caller: OperatorDeploys, backend: BackendOf, form: FormOf) -> Response:
    """Show what a change would do. Nothing is saved."""
    return fragment("ops/catalog_preview.html", preview=preview(backend, caller, form))


@router.post("/changes")
def save_change(caller: OperatorDeploys, backend: BackendOf, form: FormOf) -> Response:
    """Save a change. If the catalog changed since its preview, show a new preview instead."""
    saved = save(backend, caller, form)
    if isinstance(saved, int):
        return Response(headers={"hx-redirect": f"{PATH}?saved={saved}"})
    return fragment("ops/catalog_preview.html", preview=saved)


def _capacities(backend: Backend, catalog: Catalog, region: Region) -> dict[str, str]:
    """Return the text of the declared capacity of each GPU type, by name."""
    with backend.pool.connection() as connection:
        offered = capacities(connection)
    return {
        name: f"now {region.capacity[name]:,}"
        if name in region.capacity
        else undeclared(offered.get((region.name, name), 0))
        for name in sorted(catalog.gpu_types)
    }


def _require(name: str | None, entry: object, noun: str) -> None:
    if name is not None and entry is None:
        raise NotFound(f"The catalog has no {noun} {name!r}. See {PATH}.")
