"""The catalog, with the unfinished jobs that use each entry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from domain.catalog.catalog import Catalog
from domain.core.identity import CATALOG_ID
from gateway.backend import Backend
from gateway.schemas import Money
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


@dataclass(frozen=True)
class CatalogUsage:
    version: str
    gpu_types: list[ListedEntry]
    regions: list[ListedEntry]
    bases: list[ListedEntry]


def catalog_usage(backend: Backend) -> CatalogUsage:
    """Return the entries of the catalog, and others that unfinished jobs use."""
    catalog = backend.log.load(Catalog, CATALOG_ID)
    with backend.pool.connection() as connection:
        rows = unfinished_by_choice(connection)
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
            each.repository,
            "jobs may fine-tune it" if each.eligible else "jobs may not fine-tune it",
            _usage(rows, "base_model", each.name),
        )
        for each in catalog.bases.values()
    ]
    return CatalogUsage(
        catalog.version_text,
        [*gpu_types, *_missing(rows, "gpu_type", catalog.gpu_types)],
        [*regions, *_missing(rows, "region", catalog.regions)],
        [*bases, *_missing(rows, "base_model", catalog.bases)],
    )


def _missing(rows: list[Row], column: str, known: Iterable[str]) -> list[ListedEntry]:
    names = sorted({row[column] for row in rows} - set(known))
    return [
        ListedEntry(name, name, "not in the catalog", _usage(rows, column, name)) for name in names
    ]


def _usage(rows: list[Row], column: str, name: str) -> Usage:
    own = [row for row in rows if row[column] == name]
    return Usage(*(sum(row[each] for row in own) for each in ("running", "queued", "paused")))
