"""Import of a base model in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from deploy.local.child import tethered
from deploy.local.errors import StackError
from domain.catalog.base_model import Revision
from domain.catalog.catalog import Catalog
from domain.use_cases.accounts import EcoLink
from infrastructure.base_models.imported_model import ImportedModel
from infrastructure.base_models.importing import importing
from infrastructure.settings import Settings


def default_name(catalog: Catalog, source: str) -> str:
    """Return the catalog's name for a listed repository, otherwise the last part of the source."""
    listed = (base.name for base in catalog.bases.values() if base.repository == source)
    return next(listed, Path(source).name.removesuffix(".gguf"))


def offer_model(settings: Settings, ecolink: EcoLink, source: str, name: str) -> ImportedModel:
    """Import a base model and make it available to all accounts. Call it inside `because`."""
    with importing(settings):
        imported = run_import(settings, source, name)
    ecolink.import_base_model(imported.name, imported.part(Revision))
    return imported


def run_import(settings: Settings, source: str, name: str) -> ImportedModel:
    """Import a base model in a separate process, the only one that needs the training libraries.

    The process ends with the calling thread. It writes progress to standard error. Raise StackError
    if the import fails.
    """
    program = (sys.executable, "-P", "-m", "services.model_import")
    importer = subprocess.run(
        tethered((*program, "--source", source, "--name", name)),
        env=os.environ | {"ECOLINK_ARTIFACTS_URL": settings.artifacts},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    if importer.returncode != 0:
        raise StackError(f"Cannot import {source}. The reason is above.")
    return ImportedModel.model_validate_json(importer.stdout.splitlines()[-1])
