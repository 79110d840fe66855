"""Analysis of the quality of valid datasets, after their validation, in limited processes."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from functools import partial
from pathlib import Path
from uuid import UUID

from psycopg_pool import ConnectionPool

from domain.core.aggregate import Cause, because
from domain.core.event_format import format_of
from domain.core.event_log import EventLog
from domain.datasets.dataset import Dataset, DatasetStatus, Quality
from domain.datasets.quality_report import QualityReport
from infrastructure.artifacts import Artifacts
from infrastructure.clock import Clock
from infrastructure.fair_work import FairWork
from infrastructure.limited_process import LimitExceeded, Limits, ProcessFailed, run
from infrastructure.store import Connection
from projections.datasets import unanalyzed
from services.datasets.process_limits import limits_of, seconds_of
from services.datasets.stored_examples import StoredExamples, stored_examples
from services.datasets.validating import MOST_FAILURES, WORKER

QUALITY = "quality.json"
"""Name of the report beside the examples."""

AT_ONCE = 1
"""Number of analyses at the same time, so that validations and token counts are not delayed."""

FORMAT = format_of(Dataset.DatasetAnalyzed, 1)
"""Format of the log in which results can be stored."""


class Analyzing:
    """An analyzer of the valid datasets that the read model lists as not analyzed yet."""

    def __init__(
        self,
        log: EventLog,
        clock: Clock,
        artifacts: Artifacts,
        pool: ConnectionPool[Connection],
        limits: Limits | None = None,
    ) -> None:
        """Create the analyzer. By default, `limits` grow with the size of the file."""
        self._log = log
        self._clock = clock
        self._artifacts = artifacts
        self._pool = pool
        self._limits = limits
        self._logger = logging.getLogger("analyzing")
        self.work = FairWork[UUID]("analyzing", clock, AT_ONCE)

    def analyze_waiting(self) -> None:
        """Start analyzing the oldest dataset of an account while no other analysis runs.

        Until an upgrade is finished, the event of the result cannot be stored, so nothing starts.
        """
        if self._log.format_in_use < FORMAT:
            return
        with self._pool.connection() as connection:
            rows = unanalyzed(connection, self.work.excluded)
        oldest = {row["account_id"]: row["dataset_id"] for row in rows}
        self.work.start_in_turn(
            {account_id: (id, partial(self.analyze, id)) for account_id, id in oldest.items()}
        )

    def analyze(self, dataset_id: UUID) -> None:
        """Analyze a valid dataset, unless it was analyzed or deleted."""
        dataset = self._log.load(Dataset, dataset_id)
        if dataset.status is not DatasetStatus.READY_FOR_TRAINING or dataset.quality is not None:
            return
        try:
            report = self._report(dataset)
        except FileNotFoundError:
            if self._log.load(Dataset, dataset_id).status is DatasetStatus.DELETED:
                return
            raise
        content = report.model_dump_json().encode()
        ref = f"{dataset.home}/{QUALITY}"
        self._artifacts.put(ref, content)
        quality = Quality(
            report_ref=ref,
            report_sha256=hashlib.sha256(content).hexdigest(),
            analyzed=report.analyzed,
            findings={str(kind): count for kind, count in report.counts.items()},
        )
        self._record(dataset_id, quality)

    def _report(self, dataset: Dataset) -> QualityReport:
        """Analyze the examples. If that exceeds a limit, the report has no findings."""
        with tempfile.TemporaryDirectory() as directory:
            files = stored_examples(
                self._log, self._artifacts, dataset.id, Path(directory) / "examples"
            )
            request = {
                "task": "analyze",
                "examples": files.examples,
                "lines": files.lines,
                "unit": files.unit,
                "total": dataset.examples,
                "seconds": seconds_of(files.size),
            }
            try:
                return QualityReport(**run(WORKER, request, self._limits or limits_of(files.size)))
            except LimitExceeded as error:
                self._logger.warning("dataset %s: %s", dataset.id, error)
                return _without_findings(dataset, files, error.exceeded)
            except ProcessFailed:
                if self.work.failures(dataset.id) + 1 < MOST_FAILURES:
                    raise
                self._logger.exception("no analysis of dataset %s", dataset.id)
                return _without_findings(dataset, files, "failed")

    def _record(self, dataset_id: UUID, quality: Quality) -> None:
        """Record the result once. If the dataset was deleted, delete its files."""

        def attempt() -> None:
            with because(Cause("service:datasets", f"analyze:{dataset_id}", self._clock.now())):
                dataset = self._log.load(Dataset, dataset_id)
                if dataset.status is DatasetStatus.DELETED:
                    self._artifacts.delete_directory(dataset.home)
                else:
                    dataset.record_quality(quality)
                    self._log.commit(dataset)

        self._log.retrying(attempt)


def _without_findings(dataset: Dataset, files: StoredExamples, stopped: str) -> QualityReport:
    return QualityReport(
        unit=files.unit, examples=dataset.examples, analyzed=0, compared=0, stopped=stopped
    )
