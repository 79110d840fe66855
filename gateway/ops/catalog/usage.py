"""The catalog, with the unfinished jobs that use each entry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from domain.catalog.catalog import Catalog
from domain.core.identity import CATALOG_ID, PLATFORM_ACCOUNT_ID
from domain.deployments.deployment import DeploymentStatus
from gateway.backend import Backend
from gateway.schemas import Money
from projections.base_models import all_base_models
from projections.deployments import statuses
from projections.job_detail import unfinished_by_choice
from projections.projection import Row


@dataclass(frozen=True)
class Usage:
    """Unfinished jobs of all accounts on an entry."""

    running: int
    queued: int
    paused: int


@dataclass(frozen=True)
class ListedEntry:
    """An entry of the catalog, or the name of one that the catalog does not have."""

    name: str
    title: str
    facts: str
    usage: Usage
    price: Money | None = None
    """Price of one GPU for an hour. None for other entries than GPU types."""
    editable: bool = True
    """False if the entry was withdrawn."""


@dataclass(frozen=True)
class CatalogUsage:
    """The catalog with the unfinished jobs of all accounts."""

    version: str
    gpu_types: list[ListedEntry]
    regions: list[ListedEntry]
    bases: list[ListedEntry]


def catalog_usage(backend: Backend) -> CatalogUsage:
    """Return the entries of the catalog, and others that unfinished jobs use."""
    catalog = backend.log.load(Catalog, CATALOG_ID)
    with backend.pool.connection() as connection:
        rows = unfinished_by_choice(connection)
        imported = {row["name"] for row in all_base_models(connection)}
        deployed = statuses(connection, PLATFORM_ACCOUNT_ID)
    gpu_types = [
        ListedEntry(
            each.name,
            each.title,
            f"{each.vram_gib:g} GiB, up to {each.max_per_job} per job",
            _usage(rows, "gpu_type", each.name),
            Money.price(each.micros_per_hour),
        )
        for each in catalog.gpu_types.values()
    ]
    regions = [
        ListedEntry(
            each.name,
            each.title,
            ", ".join(f"{count} × {kind}" for kind, count in each.capacity.items()) or "no GPUs",
            _usage(rows, "region", each.name),
        )
        for each in catalog.regions.values()
    ]
    bases = [
        ListedEntry(
            each.name,
            each.repository or each.name,
            ", ".join(
                (
                    "jobs may fine-tune it" if each.eligible else "jobs may not fine-tune it",
                    _standing(each.name in imported, deployed.get(each.name)),
                )
            ),
            _usage(rows, "base_model", each.name),
        )
        for each in catalog.bases.values()
    ]
    unlisted = [
        ListedEntry(
            name,
            name,
            f"not in the catalog, {_standing(True, deployed.get(name))}",
            _usage(rows, "base_model", name),
        )
        for name in sorted(imported - catalog.bases.keys())
    ]
    return CatalogUsage(
        catalog.version_text,
        [*gpu_types, *_missing(rows, "gpu_type", catalog.gpu_types)],
        [*regions, *_missing(rows, "region", catalog.regions)],
        [*bases, *unlisted, *_missing(rows, "base_model", {*catalog.bases, *imported})],
    )


def _missing(rows: list[Row], column: str, known: Iterable[str]) -> list[ListedEntry]:
    names = sorted({row[column] for row in rows} - set(known))
    return [
        ListedEntry(name, name, "not in the catalog", _usage(rows, column, name), editable=False)
        for name in names
    ]


def _standing(imported: bool, deployment: DeploymentStatus | None) -> str:
    if not imported:
        return "not imported"
    return f"deployment {deployment}" if deployment else "imported, never deployed"


def _usage(rows: list[Row], column: str, name: str) -> Usage:
    own = [row for row in rows if row[column] == name]
    return Usage(*(sum(row[each] for row in own) for each in ("running", "queued", "paused")))
