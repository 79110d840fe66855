"""Waiting until a file can be trained on: a client makes its job as soon as the upload is over."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from uuid import UUID

from fastapi.concurrency import run_in_threadpool

from domain.base_model import BaseModel
from domain.dataset import Dataset, DatasetStatus
from domain.errors import Invalid, NotFound
from domain.identity import base_model_id
from gateway.access import Caller
from gateway.backend import Backend
from gateway.errors import FileNotReady
from gateway.v1.file_objects import why_rejected
from gateway.v1.vocabulary import file_name
from projections import datasets as rows

WAIT_SECONDS = 60.0
POLL_SECONDS = 0.1
SLOWEST_POLL_SECONDS = 1.0


async def ready(
    backend: Backend, caller: Caller, dataset_id: UUID, base_model: str, field: str
) -> None:
    """Wait until a file is validated, and counted in tokens of a base; no thread waits.

    `field` is what names the file in the request. Raises NotFound; Invalid with the first errors of
    a rejected file; and FileNotReady if it takes longer than people should wait for an answer.
    """
    deadline, pause = time.monotonic() + WAIT_SECONDS, POLL_SECONDS
    look = partial(_not_ready, backend, caller, dataset_id, base_model, field)
    while (why := await run_in_threadpool(look)) is not None:
        if time.monotonic() >= deadline:
            name = file_name(dataset_id)
            raise FileNotReady(f"{name} {why}; try again in a few minutes", field=field)
        await asyncio.sleep(pause)
        pause = min(SLOWEST_POLL_SECONDS, 1.5 * pause)


def _not_ready(
    backend: Backend, caller: Caller, dataset_id: UUID, base_model: str, field: str
) -> str | None:
    """What is still going on with a file, as the log has it; None if nothing is."""
    dataset, name = backend.log.find(Dataset, dataset_id), file_name(dataset_id)
    if (
        dataset is None
        or dataset.account_id != caller.account_id
        or dataset.status is DatasetStatus.DELETED
    ):
        raise NotFound(f"no file {name}", field=field)
    if dataset.status is DatasetStatus.VALIDATING:
        return "is still being validated"
    if dataset.status is DatasetStatus.REJECTED:
        why = _errors(backend, caller, dataset_id)
        raise Invalid(f"{name} was rejected{f': {why}' if why else ''}", field=field)
    base = backend.log.find(BaseModel, base_model_id(base_model))
    if base is None:
        return None  # what is approved is refused for that
    content = (base.name, base.manifest_sha256)
    if dataset.is_counted(*content) or dataset.why_uncountable(*content) is not None:
        return None
    return f"is still being counted in tokens of {base_model}"


def _errors(backend: Backend, caller: Caller, dataset_id: UUID) -> str | None:
    """The first errors of a rejected file, once the read models know its report."""
    with backend.pool.connection() as connection:
        row = rows.dataset(connection, caller.account_id, dataset_id)
    if row is None or row["report_ref"] is None:
        return None
    return why_rejected(backend.artifacts, row["report_ref"])
