"""Datasets from a repository of a Hugging Face hub."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any
from uuid import UUID

from domain.core.errors import Invalid, NotFound, WrongState
from domain.datasets.columns import Columns, chosen_columns
from domain.datasets.dataset import Dataset, HubSource, UploadOptions
from gateway.backend import Backend
from gateway.datasets.schemas import HubDatasetRequest, HubSourceResponse
from gateway.datasets.service import own_dataset
from gateway.datasets.uploads import (
    FULL,
    Choices,
    StoredFile,
    record_upload,
    repeated_version,
    upload_ref,
)
from gateway.http.access import Caller
from gateway.http.errors import HubUnavailable, NoDiskSpace
from infrastructure.process.limited_process import LimitExceeded, Limits, ProcessFailed, run
from infrastructure.settings import Settings
from projections.projection import Row

WORKER = "gateway.datasets.hub_worker"
LIMITS = Limits(cpu_seconds=300, wall_seconds=900, memory_mib=2048)


def import_from_hub(
    backend: Backend, caller: Caller, dataset_id: UUID, wanted: HubDatasetRequest, max_bytes: int
) -> Row:
    """Download a split, and create a dataset from it like from an upload. Return its row.

    If the ID exists, return the existing dataset without a download. Raise CommandReused if it is
    from another request, WrongState if no hub is configured, Invalid if the hub has no such files
    or they are too large, RateLimited if too many imports run, NoDiskSpace if the disk lacks space
    for the files, and HubUnavailable if the hub does not respond.
    """
    columns = None if wanted.columns is None else chosen_columns(wanted.columns)
    name = wanted.name or f"{wanted.repository} {wanted.split}"

    def options(known: Dataset) -> UploadOptions:
        source = known.options.source if _is_from(backend, known, wanted) else None
        return _choices(wanted, columns, source).options

    if (row := repeated_version(backend, caller, dataset_id, name, options)) is not None:
        return dict(row)
    endpoint = backend.settings.hub_endpoint
    if endpoint is None:
        raise WrongState(
            "Datasets from a hub are disabled. Ask your operator to set ECOLINK_HUB_ENDPOINT, or "
            "upload a file."
        )
    with backend.quotas.slots.hold("hub_imports", None), tempfile.TemporaryDirectory() as folder:
        answer = _downloaded(backend.settings, endpoint, wanted, max_bytes, folder)
        ref = upload_ref(caller)
        backend.artifacts.put_file(ref, Path(folder) / "dataset")
    document = _asked(wanted) | {"commit": answer["commit"], "files": answer["files"]}
    file = StoredFile(ref, answer["sha256"], answer["bytes"])
    choices = _choices(wanted, columns, HubSource.of(answer["commit"], document))
    choices = choices._replace(source=document)
    return dict(record_upload(backend, caller, dataset_id, name, file, choices))


def _choices(
    wanted: HubDatasetRequest, columns: Columns | None, source: HubSource | None
) -> Choices:
    options = UploadOptions(wanted.keep_duplicates, wanted.ignore_tools, source=source)
    return Choices.of(options, columns)


def _asked(wanted: HubDatasetRequest) -> dict[str, Any]:
    return {
        "repository": wanted.repository,
        "revision": wanted.revision,
        "config": wanted.config,
        "split": wanted.split,
    }


def _is_from(backend: Backend, dataset: Dataset, wanted: HubDatasetRequest) -> bool:
    """Return True if a dataset has the source of a request. Deleted datasets no longer show it."""
    if dataset.source_ref is None:
        return False
    try:
        document = json.loads(backend.artifacts.get(dataset.source_ref))
    except FileNotFoundError:
        return True
    return _asked(wanted).items() <= document.items()


def _downloaded(
    settings: Settings, endpoint: str, wanted: HubDatasetRequest, max_bytes: int, folder: str
) -> dict[str, Any]:
    request = {
        "endpoint": endpoint,
        "token": None if wanted.token is None else wanted.token.get_secret_value(),
        "repository": wanted.repository,
        "config": wanted.config,
        "split": wanted.split,
        "revision": wanted.revision,
        "max_bytes": max_bytes,
        "directory": folder,
        "kept_free_bytes": settings.disk_critical_bytes,
    }
    try:
        answer = run(WORKER, request, LIMITS)
    except LimitExceeded as error:
        raise Invalid(
            f"The files of the split need too much {error.exceeded}. Download and upload them.",
            field="split",
        ) from error
    except ProcessFailed as error:
        raise HubUnavailable("The hub does not respond. Try again later.") from error
    if "full" in answer:
        raise NoDiskSpace(f"{FULL} {answer['full']}")
    if "refused" in answer:
        raise Invalid(answer["refused"], field=answer["field"])
    return answer


def source_of(backend: Backend, caller: Caller, dataset_id: UUID) -> HubSourceResponse:
    """Return the origin of a dataset on a hub. Raise NotFound if a user uploaded it."""
    own_dataset(backend, caller, dataset_id)
    ref = backend.log.load(Dataset, dataset_id).source_ref
    if ref is None:
        raise NotFound("The dataset is an upload, so it has no source on a hub.")
    document = json.loads(backend.artifacts.get(ref))
    endpoint = backend.settings.hub_endpoint
    path = f"datasets/{document['repository']}/tree/{document['commit']}"
    return HubSourceResponse(**document, url=endpoint and f"{endpoint.rstrip('/')}/{path}")
