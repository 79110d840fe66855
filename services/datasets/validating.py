"""Validation of uploads in processes with resource limits."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg_pool import ConnectionPool

from domain.core.aggregate import Cause, because
from domain.core.event_format import format_of
from domain.core.event_log import EventLog
from domain.datasets.dataset import Contents, Dataset, DatasetKind, DatasetStatus
from infrastructure.artifacts import ArtifactCorrupt, Artifacts
from infrastructure.clock import Clock
from infrastructure.fair_work import FairWork
from infrastructure.limited_process import LimitExceeded, Limits, ProcessFailed, run
from infrastructure.measurements import set_progress
from infrastructure.store import Connection
from projections.datasets import unvalidated
from services.datasets.line_numbers import LINES
from services.datasets.process_limits import limits_of
from services.datasets.report import Progress, Report, refused, refused_file, stopped
from services.datasets.stored_examples import stored_examples
from services.datasets.unpacking import Sizes
from services.datasets.validation import SAMPLE

WORKER = "services.datasets.worker"
MOST_FAILURES = 3
"""Number of failures, other than exceeded limits, after which EcoLink rejects a file."""

PACKED = (b"\x1f\x8b", b"PK", b"PAR1")
"""First bytes of files that are compressed."""

PACKED_TIMES = 8
"""Computing time for a byte of a compressed file, as a multiple of that for another one."""

MEMORY_MIB = 1024
CPU_SECONDS, CPU_SECONDS_PER_MIB = 60, 2


class Validating:
    """A validator of the uploads that the read model lists as not validated yet."""

    def __init__(
        self,
        log: EventLog,
        clock: Clock,
        artifacts: Artifacts,
        pool: ConnectionPool[Connection],
        sizes: Sizes,
        limits: Limits | None = None,
    ) -> None:
        """Create the validator. By default, `limits` grow with the size of the file."""
        self._log = log
        self._clock = clock
        self._artifacts = artifacts
        self._pool = pool
        self._sizes = sizes
        self._limits = limits
        self._logger = logging.getLogger("validating")
        self.work = FairWork[UUID]("validating", clock)

    def validate_waiting(self) -> None:
        """Start validating the oldest upload of each account while threads are free."""
        with self._pool.connection() as connection:
            rows = unvalidated(connection, self.work.excluded)
        oldest = {row["account_id"]: row["dataset_id"] for row in rows}
        self.work.start_in_turn(
            {account_id: (id, partial(self.validate, id)) for account_id, id in oldest.items()}
        )

    def validate(self, dataset_id: UUID) -> None:
        """Validate an upload. If its process fails MOST_FAILURES times, reject the file."""
        dataset = self._log.load(Dataset, dataset_id)
        if dataset.status is DatasetStatus.VALIDATING:
            self._record(dataset, self._examine(dataset))

    def _examine(self, dataset: Dataset) -> Report:
        """Validate an upload. Store its report and examples."""
        report_ref, examples_ref = refs_of(dataset)
        with tempfile.TemporaryDirectory() as directory:
            examples = Path(directory) / "examples.jsonl"
            report = self._report(dataset, Path(directory), examples)
            report = self._as_storable(report)
            if report.status is DatasetStatus.READY_FOR_TRAINING:
                self._artifacts.put_file(examples_ref, examples)
                self._artifacts.put_file(f"{home(dataset)}/{LINES}", Path(directory) / LINES)
            if (sample := Path(directory) / SAMPLE).exists():
                self._artifacts.put_file(f"{home(dataset)}/{SAMPLE}", sample)
        self._artifacts.put(report_ref, report.model_dump_json(indent=1).encode())
        return report

    def _as_storable(self, report: Report) -> Report:
        """Reject preference pairs until the upgrade from EcoLink 0.1, which had none, is finished.

        The processes of EcoLink 0.1 would train on them as chats.
        """
        added = format_of(Dataset.DatasetValidated, 2)
        if report.kind is DatasetKind.CHATS or self._log.format_in_use >= added:
            return report
        return refused_file(
            report,
            "The file has preference pairs, which EcoLink accepts after the end of its upgrade. "
            "Upload the file again when the operator has finished the upgrade.",
        )

    def _report(self, dataset: Dataset, directory: Path, examples: Path) -> Report:
        try:
            files = self._files(dataset, directory)
        except FileNotFoundError:
            if not dataset.options.is_filtered:
                raise
            return stopped_without_parent()
        upload, filtered_size = Path(files["upload"]), files.pop("size", None)
        read = Progress(lines=0, bytes=0)

        def on_progress(progress: dict[str, int]) -> None:
            nonlocal read
            read = Progress(**progress)
            with self._pool.connection() as connection:
                set_progress(connection, dataset.id, *read, dataset.total_bytes)

        request = {
            "task": "validate",
            "examples": str(examples),
            "max_bytes": self._sizes.upload,
            "max_unpacked_bytes": self._sizes.unpacked,
            "options": {
                "keep_duplicates": dataset.options.keep_duplicates,
                "ignore_tools": dataset.options.ignore_tools,
            },
            "columns": self._columns(dataset),
            **files,
        }
        with upload.open("rb") as file:
            times = PACKED_TIMES if file.read(4).startswith(PACKED) else 1
        limits = self._limits or (
            limits_of(filtered_size)
            if filtered_size is not None
            else Limits.for_file(
                times * dataset.total_bytes, CPU_SECONDS, CPU_SECONDS_PER_MIB, MEMORY_MIB
            )
        )
        try:
            return Report(**run(WORKER, request, limits, on_progress))
        except LimitExceeded as error:
            self._logger.warning("dataset %s: %s", dataset.id, error)
            return stopped(error.exceeded, *read)
        except ProcessFailed:
            if self.work.failures(dataset.id) + 1 < MOST_FAILURES:
                raise
            self._logger.exception("rejecting dataset %s after several failures", dataset.id)
            return stopped(None, *read)

    def _files(self, dataset: Dataset, directory: Path) -> dict[str, Any]:
        """Return the local files and facts that the validation of a dataset needs.

        Raise FileNotFoundError if one was deleted, such as the examples of a parent.
        """
        filters, parent_id = dataset.options.filters, dataset.options.parent
        (directory / "upload").mkdir()
        upload = str(self._artifacts.local_file(dataset.upload_ref, directory / "upload"))
        if filters is None or parent_id is None:
            return {"upload": upload, "filters": None}
        parent = stored_examples(self._log, self._artifacts, parent_id, directory / "parent")
        other = filters.contaminates and stored_examples(
            self._log, self._artifacts, filters.contaminates, directory / "other"
        )
        return {
            "upload": upload,
            "filters": filters.model_dump(mode="json"),
            "lines": parent.lines,
            "unit": parent.unit,
            "other_examples": other and other.examples,
            "size": parent.size + (other.size if other else 0),
        }

    def _columns(self, dataset: Dataset) -> dict[str, str] | None:
        """Return the columns that the owner chose, if any. Raise ArtifactCorrupt if they differ."""
        if dataset.columns_ref is None:
            return None
        content = self._artifacts.get(dataset.columns_ref)
        if hashlib.sha256(content).hexdigest() != dataset.options.columns_sha256:
            raise ArtifactCorrupt(f"{dataset.columns_ref} differs from its hash.")
        return json.loads(content)

    def _record(self, dataset: Dataset, report: Report) -> None:
        """Record the result once. If the dataset was deleted, delete its files."""

        def attempt() -> None:
            with because(Cause("service:datasets", f"validate:{dataset.id}", self._clock.now())):
                found = self._log.load(Dataset, dataset.id)
                if found.status is DatasetStatus.DELETED:
                    self._artifacts.delete_directory(home(dataset))
                if found.status is not DatasetStatus.VALIDATING:
                    return
                conclude(found, report)
                self._log.commit(found)

        self._log.retrying(attempt)


def stopped_without_parent() -> Report:
    """Return the report of filters whose parent or validation dataset was deleted."""
    return refused(
        "A dataset that the filters need was deleted. Apply the filters to a dataset that exists."
    )


def conclude(dataset: Dataset, report: Report) -> None:
    """Accept or reject a dataset according to its report."""
    report_ref, examples_ref = refs_of(dataset)
    if report.sha256 is None:
        dataset.reject(report.error_count, report_ref)
        return
    dataset.validate(
        examples_ref,
        report.sha256,
        Contents(report.examples, report.duplicates, report.tool_lines, report.kind),
        report_ref,
    )


def home(dataset: Dataset) -> str:
    """Return the artifact prefix of all files that a validation stores."""
    return dataset.home


def refs_of(dataset: Dataset) -> tuple[str, str]:
    """Return the refs of the report and of the normalized examples."""
    return f"{home(dataset)}/report.json", f"{home(dataset)}/examples.jsonl"
