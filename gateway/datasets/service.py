"""What both APIs do with a caller's datasets: find one, record an upload, delete one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import NamedTuple
from uuid import UUID

from fastapi.concurrency import run_in_threadpool

from domain.core.aggregate import because
from domain.core.errors import DomainError
from domain.datasets.dataset import Dataset, UploadOptions
from gateway.backend import Backend
from gateway.http.access import Caller
from gateway.http.read_your_writes import caught_up, found
from infrastructure.profiles import set_dataset_name
from projections import DATASETS, JOB_DETAIL
from projections import datasets as rows
from projections.job_detail import unfinished_on
from projections.projection import Row

GIB = 1024**3


def own_dataset(backend: Backend, caller: Caller, dataset_id: UUID) -> Row:
    """The row of a caller's dataset; raises NotFound, also for another account's."""
    return found(
        backend,
        DATASETS,
        lambda connection: rows.dataset(connection, caller.account_id, dataset_id),
        f"no dataset {dataset_id}",
    )


def upload_ref(caller: Caller) -> str:
    """Where the file of this request is stored, and of no other.

    The same Idempotency-Key may be in use twice at once, and the request that fails must not
    remove the file of the one that succeeds.
    """
    return f"uploads/{caller.account_id}/{caller.request_id}.jsonl"


@asynccontextmanager
async def upload_slot(backend: Backend, caller: Caller) -> AsyncGenerator[int]:
    """Hold one of the account's uploads for the duration; the value is how many bytes it may have.

    Raises RateLimited and QuotaExceeded.
    """
    quotas = backend.quotas
    with quotas.slots.hold("uploads", caller.account_id), quotas.slots.hold("all_uploads", None):
        count, size = await run_in_threadpool(_stored, backend, caller)
        quotas.require_room("datasets", count)
        room = quotas.require_room("dataset_gib", size, GIB)
        yield min(room, backend.settings.dataset_max_bytes)


def _stored(backend: Backend, caller: Caller) -> tuple[int, int]:
    with backend.pool.connection() as connection:
        return rows.stored(connection, caller.account_id)


@contextmanager
def dropped_on(error: type[BaseException], backend: Backend, ref: str) -> Iterator[None]:
    """Delete a stored file when what is done about it fails so."""
    try:
        yield
    except error:
        backend.artifacts.delete(ref)
        raise


class StoredFile(NamedTuple):
    """A file that is whole in the artifact store; its size in bytes."""

    ref: str
    sha256: str
    size: int


def record_upload(
    backend: Backend,
    caller: Caller,
    dataset_id: UUID,
    name: str,
    file: StoredFile,
    options: UploadOptions,
) -> Dataset:
    """Make a dataset of a stored file; its validation begins.

    The same id makes the same dataset, with the first file. Raises DomainError; nothing is kept
    then, nor of an upload that the database did not come to know.
    """
    with dropped_on(Exception, backend, file.ref):
        backend.log.find(Dataset, dataset_id)
    # From here on another error than a refusal may hide a commit, whose file must stay.
    with dropped_on(DomainError, backend, file.ref), because(caller.cause(backend)):
        dataset = backend.ecolink.upload_dataset(caller.account_id, dataset_id, *file, options)
    if dataset.upload_ref != file.ref:
        backend.artifacts.delete(file.ref)
    with backend.pool.connection() as connection:
        set_dataset_name(connection, dataset_id, name)
    caught_up(backend, DATASETS)
    return dataset


def ignore_tools(backend: Backend, caller: Caller, dataset_id: UUID) -> None:
    """Confirm that jobs train on a caller's dataset without its tools' definitions.

    Raises NotFound, and WrongState unless it is ready.
    """
    own_dataset(backend, caller, dataset_id)
    with because(caller.cause(backend)):
        backend.ecolink.ignore_tools(caller.account_id, dataset_id)
    caught_up(backend, DATASETS)


def delete_dataset(backend: Backend, caller: Caller, dataset_id: UUID) -> None:
    """Delete a caller's dataset; raises NotFound, and WrongState while a job needs it."""
    own_dataset(backend, caller, dataset_id)
    caught_up(backend, JOB_DETAIL)
    with backend.pool.connection() as connection:
        used_by = unfinished_on(connection, caller.account_id, dataset_id)
    with because(caller.cause(backend)):
        backend.ecolink.delete_dataset(caller.account_id, dataset_id, used_by)
    caught_up(backend, DATASETS)
