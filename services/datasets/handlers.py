"""The event handler of the datasets service, which deletes files."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg_pool import ConnectionPool

from domain.core.aggregate import Aggregate, Event
from domain.core.event_log import EventLog
from domain.datasets.dataset import Dataset
from infrastructure.artifacts import Artifacts
from infrastructure.profiles import delete_dataset_name
from infrastructure.store import Connection
from services.datasets.validating import home

ANSWERS = (Dataset.DatasetRejected, Dataset.DatasetDeleted)
"""Events after which the datasets service deletes files."""


def clean(
    log: EventLog, artifacts: Artifacts, pool: ConnectionPool[Connection], event: Event
) -> Sequence[Aggregate]:
    """Delete the files of rejected and deleted datasets. Keep the report of a rejected dataset."""
    match event:
        case Dataset.DatasetRejected():
            artifacts.delete(log.load(Dataset, event.originator_id).upload_ref)
        case Dataset.DatasetDeleted():
            dataset = log.load(Dataset, event.originator_id)
            artifacts.delete(dataset.upload_ref)
            artifacts.delete_directory(home(dataset))
            with pool.connection() as connection:
                delete_dataset_name(connection, dataset.id)
        case _:
            pass
    return []
