"""Validates each upload beside the reactions, in a process with limits."""

from __future__ import annotations

import logging
import tempfile
from collections import deque
from functools import partial
from pathlib import Path
from uuid import UUID

from psycopg_pool import ConnectionPool

from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from domain.datasets.dataset import Dataset, DatasetStatus
from infrastructure.artifacts import Artifacts
from infrastructure.backoff import Postponed
from infrastructure.clock import Clock
from infrastructure.limited_process import LimitExceeded, Limits, ProcessFailed, run
from infrastructure.measurements import set_progress
from infrastructure.store import Connection
from projections.datasets import unvalidated
from services.datasets.fair_work import FairWork
from services.datasets.report import Progress, Report, Status, stopped
from services.datasets.storage import home

WORKER = "services.datasets.worker"
AT_ONCE = 2
REMEMBERED = 1000
MOST_FAILURES = 3
"""A file whose validation fails so often without reaching a limit is rejected as well."""

MEMORY_MIB = 1024
CPU_SECONDS, CPU_SECONDS_PER_MIB = 60, 2
WALL_SECONDS_PER_CPU_SECOND = 10
"""On a machine that does other things, too."""


class Validating:
    """Finds uploads without a verdict, so that those of before a restart are found too."""

    def __init__(
        self,
        log: EventLog,
        clock: Clock,
        artifacts: Artifacts,
        pool: ConnectionPool[Connection],
        max_bytes: int,
        limits: Limits | None = None,
    ) -> None:
        """`max_bytes` is that of a file; without `limits` they follow from the file's size."""
        self._log = log
        self._clock = clock
        self._artifacts = artifacts
        self._pool = pool
        self._max_bytes = max_bytes
        self._limits = limits
        self._postponed = Postponed[UUID]()
        self._settled = deque[UUID](maxlen=REMEMBERED)
        self._logger = logging.getLogger("validating")
        self.work = FairWork("validating", AT_ONCE)

    def validate_waiting(self) -> None:
        """Start on the oldest upload of each account, as far as there are threads."""
        without = [*self._postponed.waiting(self._clock.now()), *self._settled]
        with self._pool.connection() as connection:
            rows = unvalidated(connection, without)
        self.work.start_in_turn(
            {row["account_id"]: partial(self.validate, row["dataset_id"]) for row in rows}
        )

    def validate(self, dataset_id: UUID) -> None:
        """Validate an upload; one that fails is put off, and keeps no other from its turn."""
        try:
            dataset = self._log.load(Dataset, dataset_id)
            if dataset.status is DatasetStatus.VALIDATING:
                self._record(dataset, *self._examine(dataset))
        except Exception:
            pause = self._postponed.put_off(dataset_id, self._clock.now())
            self._logger.exception(
                "dataset %s cannot be validated now; again in %s", dataset_id, pause
            )
        else:
            self._postponed.settled(dataset_id)
            self._settled.append(dataset_id)

    def _examine(self, dataset: Dataset) -> tuple[Report, str]:
        """The report of an upload, and where it is stored; the examples are stored beside it."""
        report_ref, examples_ref = _refs(dataset)
        with tempfile.TemporaryDirectory() as directory:
            examples = Path(directory) / "examples.jsonl"
            report = self._report(dataset, Path(directory), examples)
            if report.status is Status.READY_FOR_TRAINING:
                self._artifacts.put_file(examples_ref, examples)
        self._artifacts.put(report_ref, report.model_dump_json(indent=1).encode())
        return report, report_ref

    def _report(self, dataset: Dataset, directory: Path, examples: Path) -> Report:
        upload = self._artifacts.local_file(dataset.upload_ref, directory)
        read = Progress(lines=0, bytes=0)

        def on_progress(progress: dict[str, int]) -> None:
            nonlocal read
            read = Progress(**progress)
            with self._pool.connection() as connection:
                set_progress(connection, dataset.id, *read, dataset.total_bytes)

        request = {
            "task": "validate",
            "upload": str(upload),
            "examples": str(examples),
            "max_bytes": self._max_bytes,
            "keep_duplicates": dataset.options.keep_duplicates,
        }
        limits = self._limits or limits_for(dataset.total_bytes)
        try:
            return Report(**run(WORKER, request, limits, on_progress))
        except LimitExceeded as error:
            self._logger.warning("dataset %s: %s", dataset.id, error)
            return stopped(error.exceeded, *read)
        except ProcessFailed:
            if self._postponed.tries(dataset.id) + 1 < MOST_FAILURES:
                raise
            self._logger.exception("dataset %s is rejected after several failures", dataset.id)
            return stopped(None, *read)

    def _record(self, dataset: Dataset, report: Report, report_ref: str) -> None:
        """Record the verdict, once; a dataset that was deleted meanwhile leaves no file."""

        def attempt() -> None:
            command_id = f"validate:{dataset.id}"
            with because(Cause("service:datasets", command_id, self._clock.now())):
                found = self._log.load(Dataset, dataset.id)
                if found.status is DatasetStatus.DELETED:
                    self._artifacts.delete_directory(home(dataset))
                if found.status is not DatasetStatus.VALIDATING:
                    return
                _decide(found, report, report_ref)
                self._log.commit(found)

        self._log.retrying(attempt)


def limits_for(size: int) -> Limits:
    """The limits for a file of `size` bytes."""
    cpu_seconds = CPU_SECONDS + CPU_SECONDS_PER_MIB * size // 1024**2
    return Limits(cpu_seconds, WALL_SECONDS_PER_CPU_SECOND * cpu_seconds, MEMORY_MIB)


def _decide(dataset: Dataset, report: Report, report_ref: str) -> None:
    if report.status is Status.REJECTED:
        dataset.reject(report.error_count, report_ref)
        return
    assert report.sha256 is not None
    dataset.validate(
        _refs(dataset)[1],
        report.sha256,
        report.examples,
        report.duplicates,
        report_ref,
        report.tool_lines,
    )


def _refs(dataset: Dataset) -> tuple[str, str]:
    """Where the report and the normalised examples of a dataset are stored."""
    return f"{home(dataset)}/report.json", f"{home(dataset)}/examples.jsonl"
