"""Disks that are almost full."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import unquote, urlparse

from domain.core.quantities import GIB
from extensions.alerts.checks.surroundings import Surroundings
from extensions.alerts.domain.cause import Finding
from extensions.alerts.domain.parameters import DiskLimit, DiskParameters, Parameters
from infrastructure.settings import Settings


def low(around: Surroundings, parameters: Parameters) -> list[Finding]:
    """Return the folders whose disk has too little free space. Each disk is reported once."""
    assert isinstance(parameters, DiskParameters)
    limit = _limit_bytes(around.settings, parameters)
    found: dict[object, Finding] = {}
    for folder in map(Path, parameters.paths) if parameters.paths else _own(around.settings):
        labels = {"path": str(folder)}
        try:
            device, usage = folder.stat().st_dev, shutil.disk_usage(folder)
        except OSError as error:
            text = f"Cannot read the disk of {folder}: {error.strerror}."
            found[folder] = Finding(labels, text)
            continue
        if usage.free < limit:
            text = (
                f"{usage.free / GIB:.2f} of {usage.total / GIB:.2f} GiB are free on the disk of "
                f"{folder}, less than {limit / GIB:g} GiB."
            )
            found.setdefault(device, Finding(labels, text))
    return list(found.values())


def _limit_bytes(settings: Settings, parameters: DiskParameters) -> float:
    if parameters.free_gib is not None:
        return parameters.free_gib * GIB
    low = parameters.limit is DiskLimit.LOW
    return settings.disk_low_bytes if low else settings.disk_critical_bytes


def _own(settings: Settings) -> list[Path]:
    """Return the home directory, and the artifact store if it is an existing folder."""
    folders = [settings.home.resolve()]
    url = urlparse(settings.artifacts)
    if url.scheme == "file" and (folder := Path(unquote(url.path))).exists():
        folders.append(folder)
    return folders
