"""The catalog's names of GPUs and regions, for a page."""

from __future__ import annotations

from domain.catalog.catalog import Catalog
from domain.catalog.display_names import DisplayNames
from domain.core.identity import CATALOG_ID
from gateway.backend import Backend


def display_names(backend: Backend) -> DisplayNames:
    """The names as they are now."""
    return backend.log.load(Catalog, CATALOG_ID).display_names
