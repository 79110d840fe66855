"""Files of a job: ready, still being validated or counted, or rejected."""

from __future__ import annotations

from uuid import UUID

from domain.catalog.base_model import BaseModel
from domain.core.errors import Invalid, NotFound
from domain.core.identity import base_model_id
from domain.datasets.dataset import Dataset, DatasetStatus
from domain.jobs.choices import Choices
from gateway.backend import Backend
from gateway.datasets.openai.objects import why_rejected
from gateway.http.openai_vocabulary import file_name
from projections import datasets as rows

TRAINING_FILE, VALIDATION_FILE = "training_file", "validation_file"


class FileRejected(Invalid):
    """A file was validated, and has errors; the message does not quote them."""

    code = "file_rejected"


def files_of(choices: Choices) -> dict[str, UUID]:
    """The datasets of a job, by the field of a request that names each."""
    files = {TRAINING_FILE: choices.dataset_id, VALIDATION_FILE: choices.validation_dataset_id}
    return {field: dataset_id for field, dataset_id in files.items() if dataset_id is not None}


def files_ready(backend: Backend, account_id: UUID, choices: Choices) -> bool:
    """Return True if each file is validated, and counted in tokens of the base, by the log.

    Raises NotFound and FileRejected, with the field.
    """
    ready = [
        _is_ready(backend, account_id, dataset_id, choices.base_model, field)
        for field, dataset_id in files_of(choices).items()
    ]
    return all(ready)


def _is_ready(
    backend: Backend, account_id: UUID, dataset_id: UUID, base_model: str, field: str
) -> bool:
    dataset, name = backend.log.find(Dataset, dataset_id), file_name(dataset_id)
    if (
        dataset is None
        or dataset.account_id != account_id
        or dataset.status is DatasetStatus.DELETED
    ):
        raise NotFound(f"no file {name}", field=field)
    if dataset.status is DatasetStatus.REJECTED:
        raise FileRejected(f"{name} was rejected", field=field)
    if dataset.status is DatasetStatus.VALIDATING:
        return False
    if backend.quoting.problems(account_id, None, None, base_model, None, None, None):
        return True  # the approval refuses the base; nothing may count in its tokens any more
    base = backend.log.load(BaseModel, base_model_id(base_model))
    content = (base.name, base.manifest_sha256)
    return dataset.is_counted(*content) or dataset.why_uncountable(*content) is not None


def explained(backend: Backend, account_id: UUID, sentence: str, dataset_id: UUID) -> str:
    """The sentence that a file was rejected, with its first errors while its report is kept."""
    with backend.pool.connection() as connection:
        row = rows.dataset(connection, account_id, dataset_id)
    if row is None or row["report_ref"] is None:
        return sentence
    why = why_rejected(backend.artifacts, row["report_ref"])
    return f"{sentence}: {why}" if why else sentence
