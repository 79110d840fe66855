"""Uploads: store a file and create a dataset from it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from fastapi.concurrency import run_in_threadpool

from domain.core.aggregate import because
from domain.core.errors import DomainError
from domain.datasets.columns import Columns, columns_document, columns_sha256
from domain.datasets.dataset import Dataset, UploadOptions, columns_ref, source_document, source_ref
from gateway.backend import Backend
from gateway.http.access import Caller
from gateway.http.errors import NoDiskSpace, QuotaExceeded
from gateway.http.read_your_writes import caught_up, found
from infrastructure.accounts.profiles import set_dataset_name
from infrastructure.process.disk_space import DiskLevel, disk_space
from projections import DATASETS
from projections import datasets as rows

GIB = 1024**3

FULL = "EcoLink has too little disk space for uploads. Ask your operator to free some."

NATIVE_PATH, OPENAI_PATH = "/api/datasets", "/v1/files"
"""Paths whose bodies are streamed."""


def upload_ref(caller: Caller) -> str:
    """Return a ref of this request alone: one that fails must not delete another one's file."""
    return f"uploads/{caller.account_id}/{caller.request_id}.jsonl"


@asynccontextmanager
async def upload_slot(backend: Backend, caller: Caller) -> AsyncGenerator[int]:
    """Hold an upload slot and yield the maximum size.

    Half of all slots are for accounts without another upload, so that a few accounts with slow
    clients cannot hold all.
    Raise NoDiskSpace, RateLimited or QuotaExceeded.
    """
    if disk_space(backend.settings).level is DiskLevel.CRITICAL:
        raise NoDiskSpace(FULL)
    quotas = backend.quotas
    with quotas.slots.hold("uploads", caller.account_id) as own:
        spare = quotas.limits["all_uploads"] // 2 if own > 1 else 0
        with quotas.slots.hold("all_uploads", None, spare):
            room = await run_in_threadpool(room_for_upload, backend, caller)
            yield min(room, backend.settings.dataset_max_bytes)


def room_for_upload(backend: Backend, caller: Caller) -> int:
    """Return the bytes that the account may still store. Raise QuotaExceeded if none are left."""
    with backend.pool.connection() as connection:
        count, size = rows.stored(connection, caller.account_id)
    backend.quotas.require_room("datasets", count)
    return backend.quotas.require_room("dataset_gib", size, GIB)


@contextmanager
def dropped_on(error: type[BaseException], backend: Backend, ref: str) -> Iterator[None]:
    """Delete a stored file if the block raises an error of this type."""
    try:
        yield
    except error:
        backend.artifacts.delete(ref)
        raise


@contextmanager
def _documents_dropped_on(
    error: type[BaseException], backend: Backend, dataset_id: UUID, documents: Iterable[str]
) -> Iterator[None]:
    """Delete a new dataset's documents on an error. An existing one was another request's."""
    try:
        yield
    except error:
        existing = backend.log.find(Dataset, dataset_id)
        kept = set() if existing is None else {existing.columns_ref, existing.source_ref}
        for ref in documents:
            if ref not in kept:
                backend.artifacts.delete(ref)
        raise


class StoredFile(NamedTuple):
    """A complete file in the artifact store. The size is in bytes."""

    ref: str
    sha256: str
    size: int

    @classmethod
    def of(cls, ref: str, content: bytes) -> StoredFile:
        """Return the file with a content, which the caller stores."""
        return cls(ref, hashlib.sha256(content).hexdigest(), len(content))


class Choices(NamedTuple):
    """The options of an upload, the chosen columns, and the `source`, whose hash is an option."""

    options: UploadOptions
    columns: Columns | None = None
    source: Mapping[str, Any] | None = None

    def documents(self, account_id: UUID, dataset_id: UUID) -> dict[str, bytes]:
        """Return the documents by ref. Refs contain hashes, so that equal requests agree."""
        documents: dict[str, bytes] = {}
        if self.columns is not None:
            ref = columns_ref(account_id, dataset_id, columns_sha256(self.columns))
            documents[ref] = columns_document(self.columns)
        if self.source is not None and self.options.source is not None:
            ref = source_ref(account_id, dataset_id, self.options.source.document_sha256)
            documents[ref] = source_document(self.source)
        return documents

    @classmethod
    def of(cls, options: UploadOptions, columns: Columns | None) -> Choices:
        """Return choices whose options have the hash of the columns."""
        if columns is None:
            return cls(options)
        return cls(replace(options, columns_sha256=columns_sha256(columns)), columns)


def record_upload(
    backend: Backend,
    caller: Caller,
    dataset_id: UUID,
    name: str,
    file: StoredFile,
    choices: Choices,
) -> Mapping[str, Any]:
    """Create a dataset from a stored file, start its validation, and return its row.

    If the ID exists, return the existing dataset. If this raises a DomainError, or before the
    dataset is recorded, delete the file and the documents of the choices.
    """
    documents = choices.documents(caller.account_id, dataset_id)
    dropped = partial(_documents_dropped_on, backend=backend, dataset_id=dataset_id)
    with dropped_on(Exception, backend, file.ref), dropped(Exception, documents=documents):
        if backend.log.find(Dataset, dataset_id) is None:
            for ref, content in documents.items():
                backend.artifacts.put(ref, content)
    # Any other error may occur after a successful commit, so the file must stay.
    with dropped_on(DomainError, backend, file.ref), dropped(DomainError, documents=documents):
        dataset = _record(backend, caller, dataset_id, file, choices.options)
    if dataset.upload_ref != file.ref:
        backend.artifacts.delete(file.ref)
    return named_row(backend, caller, dataset, name)


def record_version(
    backend: Backend,
    caller: Caller,
    dataset_id: UUID,
    name: str,
    file: StoredFile,
    choices: Choices,
) -> Mapping[str, Any]:
    """Create, once, a dataset that filters its parent's file, and return its row."""
    dataset = _record(backend, caller, dataset_id, file, choices.options)
    return named_row(backend, caller, dataset, name)


def repeated_version(
    backend: Backend,
    caller: Caller,
    dataset_id: UUID,
    name: str | None,
    options: Callable[[Dataset], UploadOptions],
) -> Mapping[str, Any] | None:
    """Return the row of a version that an earlier request with the same key created, or None.

    The parent may have been deleted since. `options` returns those that the request gives the
    version. Raise CommandReused if they differ from those of the earlier request.
    """
    known = backend.log.find(Dataset, dataset_id)
    if known is None:
        return None
    file = StoredFile(known.upload_ref, known.upload_sha256, known.total_bytes)
    dataset = _record(backend, caller, dataset_id, file, options(known))
    if name is not None:
        return named_row(backend, caller, dataset, name)
    return found(
        backend,
        DATASETS,
        lambda connection: rows.dataset(connection, caller.account_id, dataset_id),
        f"Unknown dataset {dataset_id}. See `ecolink datasets list`.",
    )


def require_room_for(backend: Backend, caller: Caller, size: int, what: str) -> None:
    """Raise QuotaExceeded if a file of `size` bytes does not fit into the quota for datasets."""
    room = room_for_upload(backend, caller)
    if size > room:
        raise QuotaExceeded(
            f"{what} needs {size:,} bytes, and your quota for datasets has {room:,} bytes left. "
            "Delete datasets, or ask the operator for a larger quota (`dataset_gib`).",
            {},
        )


@contextmanager
def _room_for(backend: Backend, caller: Caller, size: int) -> Iterator[None]:
    """Run the block, which adds a file, if it fits. Other uploads may have ended since it began."""
    with backend.alone("datasets", caller.account_id):
        caught_up(backend, DATASETS)
        require_room_for(backend, caller, size, "The file")
        yield


def _record(
    backend: Backend, caller: Caller, dataset_id: UUID, file: StoredFile, options: UploadOptions
) -> Dataset:
    known = backend.log.find(Dataset, dataset_id) is not None
    adding = nullcontext() if known else _room_for(backend, caller, file.size)
    with adding, because(caller.cause(backend)):
        return backend.ecolink.upload_dataset(caller.account_id, dataset_id, *file, options)


def named_row(backend: Backend, caller: Caller, dataset: Dataset, name: str) -> Mapping[str, Any]:
    """Store the name of a new dataset. Return its row."""
    with backend.pool.connection() as connection:
        set_dataset_name(connection, dataset.id, name)
    caught_up(backend, DATASETS)
    with backend.pool.connection() as connection:
        row = rows.dataset(connection, caller.account_id, dataset.id)
    return row or {
        "dataset_id": dataset.id,
        "status": dataset.status,
        "total_bytes": dataset.total_bytes,
        "uploaded_at": dataset.created_on,
        "parent": dataset.options.parent,
        "filters": dataset.options.filters,
        "synthesis_id": dataset.options.synthesis_id,
    }
