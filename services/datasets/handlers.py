"""Event handlers of the datasets service, which delete files."""

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


class Cleaning:
    """Event handlers that delete the files of rejected and deleted datasets."""

    def __init__(
        self, log: EventLog, artifacts: Artifacts, pool: ConnectionPool[Connection]
    ) -> None:
        self._log = log
        self._artifacts = artifacts
        self._pool = pool

    def handle(self, event: Event) -> Sequence[Aggregate]:
        """Handle one event. Return the aggregates to save."""
        match event:
            case Dataset.DatasetRejected():
                return self.on_dataset_rejected(event)
            case Dataset.DatasetDeleted():
                return self.on_dataset_deleted(event)
            case _:
                return []

    def on_dataset_rejected(self, event: Dataset.DatasetRejected) -> Sequence[Aggregate]:
        """Delete the upload and keep its report."""
        self._artifacts.delete(self._log.load(Dataset, event.originator_id).upload_ref)
        return []

    def on_dataset_deleted(self, event: Dataset.DatasetDeleted) -> Sequence[Aggregate]:
        """Delete the upload, its normalised examples, its report and its name."""
        dataset = self._log.load(Dataset, event.originator_id)
        self._artifacts.delete(dataset.upload_ref)
        self._artifacts.delete_directory(home(dataset))
        with self._pool.connection() as connection:
            delete_dataset_name(connection, dataset.id)
        return []
