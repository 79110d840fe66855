"""The datasets service's reactions: an upload is validated; rejected and deleted files go."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from psycopg_pool import ConnectionPool

from domain.aggregate import Aggregate, Event
from domain.dataset import Dataset, DatasetStatus
from domain.event_log import EventLog
from infrastructure.artifacts import Artifacts
from infrastructure.measurements import set_progress
from infrastructure.profiles import delete_dataset_name
from infrastructure.settings import Settings
from infrastructure.store import Connection
from services.datasets.report import Progress, Status
from services.datasets.validation import validate


class Validating:
    """Reads each uploaded file once, and leaves its normalised form, or only a report."""

    def __init__(
        self,
        log: EventLog,
        artifacts: Artifacts,
        pool: ConnectionPool[Connection],
        settings: Settings,
    ) -> None:
        self._log = log
        self._artifacts = artifacts
        self._pool = pool
        self._settings = settings

    def react(self, event: Event) -> Sequence[Aggregate]:
        """Answer one event of the log."""
        match event:
            case Dataset.DatasetUploaded():
                return self.on_dataset_uploaded(event)
            case Dataset.DatasetRejected():
                return self.on_dataset_rejected(event)
            case Dataset.DatasetDeleted():
                return self.on_dataset_deleted(event)
            case _:
                return []

    def on_dataset_uploaded(self, event: Dataset.DatasetUploaded) -> Sequence[Aggregate]:
        """Validate the file; its report and normalised form are artifacts."""
        dataset = self._log.load(Dataset, event.originator_id)
        if dataset.status is not DatasetStatus.VALIDATING:
            return []
        home = _home(dataset)
        report_ref, examples_ref = f"{home}/report.json", f"{home}/examples.jsonl"

        def on_progress(progress: Progress) -> None:
            with self._pool.connection() as connection:
                set_progress(
                    connection, dataset.id, progress.lines, progress.bytes, event.total_bytes
                )

        with tempfile.NamedTemporaryFile() as examples:
            report = validate(
                self._artifacts.stream(event.ref),
                examples.write,
                on_progress=on_progress,
                max_bytes=self._settings.dataset_max_bytes,
            )
            if report.status is Status.READY_FOR_TRAINING:
                examples.flush()
                self._artifacts.put_file(examples_ref, Path(examples.name))
        self._artifacts.put(report_ref, report.model_dump_json(indent=1).encode())
        if report.status is Status.REJECTED:
            dataset.reject(report.error_count, report_ref)
        else:
            assert report.sha256 is not None
            dataset.validate(
                examples_ref, report.sha256, report.examples, report.duplicates, report_ref
            )
        return [dataset]

    def on_dataset_rejected(self, event: Dataset.DatasetRejected) -> Sequence[Aggregate]:
        """Delete the file: nothing but its report is kept."""
        self._artifacts.delete(self._log.load(Dataset, event.originator_id).upload_ref)
        return []

    def on_dataset_deleted(self, event: Dataset.DatasetDeleted) -> Sequence[Aggregate]:
        """Delete the file, its normalised form, its report and its name."""
        dataset = self._log.load(Dataset, event.originator_id)
        self._artifacts.delete(dataset.upload_ref)
        self._artifacts.delete_directory(_home(dataset))
        with self._pool.connection() as connection:
            delete_dataset_name(connection, dataset.id)
        return []


def _home(dataset: Dataset) -> str:
    """Artifact prefix of what the validation makes of a dataset."""
    return f"datasets/{dataset.account_id}/{dataset.id}"
