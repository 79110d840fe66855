"""The licence files of base models, which exports pass on.

They are beside the files of a base model, but not in its manifest. The manifest of the same weights
is therefore the same whether or not an import had a licence.
"""

from __future__ import annotations

import re
from pathlib import Path

from infrastructure.artifacts.store import Artifacts

LICENSE = re.compile(r"(LICEN[SC]E|NOTICE|USE_POLICY)([._-].*)?", re.IGNORECASE)
"""Names of licence files."""

MOST_BYTES = 1024**2


def license_files(directory: Path) -> list[Path]:
    """Return the licence files in a directory, sorted."""
    found = (path for path in directory.iterdir() if LICENSE.fullmatch(path.name))
    return sorted(path for path in found if path.is_file() and path.stat().st_size <= MOST_BYTES)


def store_licenses(artifacts: Artifacts, ref: str, files: list[Path]) -> None:
    """Store licence files beside a base model."""
    for path in files:
        artifacts.put(f"{ref}/{path.name}", path.read_bytes())


def fetch_licenses(artifacts: Artifacts, ref: str, directory: Path) -> None:
    """Copy the licence files of a base model into an empty directory."""
    for stored in artifacts.list(ref):
        name = stored.removeprefix(f"{ref}/")
        if LICENSE.fullmatch(name):
            (directory / name).write_bytes(artifacts.get(stored))
