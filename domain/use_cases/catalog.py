"""Use cases that change the catalog, and previews of such changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from domain.catalog.base_model import BaseModel
from domain.catalog.catalog import Catalog
from domain.catalog.catalog_entries import CatalogBase, GpuType, Region
from domain.core.errors import Invalid, VersionConflict
from domain.core.event_log import EventLog
from domain.core.identity import CATALOG_ID, base_model_id

Change = Callable[[Catalog], None]
"""A function that changes a catalog. It raises a DomainError for an invalid change."""


class Cataloging:
    """Use cases of operators. Each must run inside `because(cause)`."""

    def __init__(self, log: EventLog) -> None:
        self.log = log

    @property
    def catalog(self) -> Catalog:
        """The current catalog."""
        return self.log.load(Catalog, CATALOG_ID)

    def preview(self, change: Change) -> Catalog:
        """Return the catalog as it would be after a change. Nothing is saved."""
        catalog = self.catalog
        change(catalog)
        return catalog

    def change(self, change: Change, version: int | None = None) -> Catalog:
        """Save a change, and return the catalog.

        `version` is the version of the catalog that the operator saw. Raise VersionConflict if the
        catalog has another one. Without it, apply the change to any version, and retry after a
        concurrent change.
        """

        def attempt() -> Catalog:
            catalog = self.catalog
            if version not in (None, catalog.version):
                raise VersionConflict(
                    f"The catalog has version {catalog.version}, not {version}. It "
                    "changed after you read it. Nothing was saved."
                )
            change(catalog)
            self.log.commit(catalog)
            return catalog

        return self.log.retrying(attempt, attempts=8 if version is None else 1)


def gpu_type_change(name: str, fields: Mapping[str, object]) -> Change:
    """Return a change that adds a complete GPU type, or sets fields of an existing one."""

    def change(catalog: Catalog) -> None:
        existing = catalog.gpu_types.get(name)
        before = {"name": name} if existing is None else existing.model_dump()
        if missing := missing_fields(catalog, name, fields):
            raise Invalid(
                f"The GPU type {name} is new. Also enter {', '.join(missing)}.", field=missing[0]
            )
        catalog.offer_gpu_type(GpuType.model_validate(before | dict(fields)))

    return change


def missing_fields(catalog: Catalog, name: str, fields: Mapping[str, object]) -> list[str]:
    """Return the fields, sorted, that a new GPU type still needs. `price` stands for its micros."""
    if name in catalog.gpu_types:
        return []
    required = {name for name, field in GpuType.model_fields.items() if field.is_required()}
    missing = required - {"name"} - fields.keys()
    return sorted("price" if each == "micros_per_hour" else each for each in missing)


def region_change(name: str, title: str) -> Change:
    """Return a change that adds a region without GPUs, or sets the title of an existing one."""

    def change(catalog: Catalog) -> None:
        existing = catalog.regions.get(name)
        capacity = {} if existing is None else existing.capacity
        catalog.offer_region(Region(name=name, title=title, capacity=capacity))

    return change


def base_change(log: EventLog, name: str, fields: Mapping[str, object]) -> Change:
    """Return a change that lists an imported base model, or sets fields of a listed one."""

    def change(catalog: Catalog) -> None:
        existing = catalog.bases.get(name) or new_listing(log, name)
        catalog.list_base(existing.model_copy(update=dict(fields)))

    return change


def new_listing(log: EventLog, name: str) -> CatalogBase:
    """Return a catalog entry for an imported base model. Raise Invalid if it is not imported."""
    imported = imported_base(log, name)
    if imported is None:
        raise Invalid(
            f"The catalog does not list {name}. Import it first: ecolink models import SOURCE "
            f"--name {name}",
            field="name",
        )
    content = imported.revision
    return CatalogBase(
        name=name, repository="", shape=content.shape, eligible=True, source=content.ref
    )


def imported_base(log: EventLog, name: str) -> BaseModel | None:
    """Return the base model in the model store, or None if it was not imported or was deleted."""
    found = log.find(BaseModel, base_model_id(name))
    return None if found is None or found.deleted else found
