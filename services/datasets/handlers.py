"""The event handlers of the datasets service, which delete files."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg_pool import ConnectionPool

from domain.core.aggregate import Aggregate
from domain.core.event_log import EventLog
from domain.datasets.dataset import Dataset
from infrastructure.accounts.profiles import delete_dataset_name
from infrastructure.artifacts.store import Artifacts
from infrastructure.bus.event_handlers import Handlers
from infrastructure.datasets.wanted_counts import delete_wanted_counts
from infrastructure.postgres.store import Connection
from services.datasets.validating import home


class Cleaning:
    """Event handlers that delete files of datasets."""

    def __init__(
        self, log: EventLog, artifacts: Artifacts, pool: ConnectionPool[Connection]
    ) -> None:
        self._log = log
        self._artifacts = artifacts
        self._pool = pool

    @property
    def handlers(self) -> Handlers:
        """Event handlers, by event."""
        return {Dataset.DatasetDeleted: self.on_deleted}

    def on_deleted(self, event: Dataset.DatasetDeleted) -> Sequence[Aggregate]:
        """Delete the files and the name of a deleted dataset."""
        dataset = self._log.load(Dataset, event.originator_id)
        if not dataset.options.is_filtered:  # otherwise, the file belongs to the parent
            self._artifacts.delete(dataset.upload_ref)
        if dataset.columns_ref is not None:
            self._artifacts.delete(dataset.columns_ref)
        if dataset.source_ref is not None:
            self._artifacts.delete(dataset.source_ref)
        self._artifacts.delete_directory(home(dataset))
        with self._pool.connection() as connection:
            delete_dataset_name(connection, dataset.id)
            delete_wanted_counts(connection, dataset.id)
        return []
