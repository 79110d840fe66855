"""What people call the GPUs that jobs run on, and the regions where these stand."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from domain.catalog import Catalog
from domain.identity import CATALOG_ID
from gateway.backend import Backend

APART = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class PlaceNames:
    """The catalog's titles by their ids; what is offered no more goes by its id."""

    gpu_types: Mapping[str, str]
    regions: Mapping[str, str]
    cpus: Collection[str] = ()
    """The GPU types that a machine's CPU stands for."""

    def gpus(self, count: int, gpu_type: str) -> str:
        """Some GPUs of a type, such as `2 × NVIDIA L4 24 GB`."""
        return f"{count}{APART}×{APART}{self.gpu_types.get(gpu_type, gpu_type)}"

    def region(self, name: str) -> str:
        """A region, such as `Frankfurt`."""
        return self.regions.get(name, name)


def place_names(backend: Backend) -> PlaceNames:
    """The names as they are now."""
    catalog = backend.log.load(Catalog, CATALOG_ID)
    return PlaceNames(
        {each.name: each.title for each in catalog.gpu_types.values()},
        {each.name: each.title for each in catalog.regions.values()},
        {each.name for each in catalog.gpu_types.values() if each.backing == "cpu"},
    )
