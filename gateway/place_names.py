"""The catalog's names of GPUs and regions, for a page."""

from __future__ import annotations

from domain.catalog import Catalog
from domain.identity import CATALOG_ID
from domain.place_names import PlaceNames
from gateway.backend import Backend


def place_names(backend: Backend) -> PlaceNames:
    """The names as they are now."""
    return backend.log.load(Catalog, CATALOG_ID).place_names
