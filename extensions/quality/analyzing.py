"""Analysis of the quality of valid datasets, after their validation."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from uuid import UUID

from domain.datasets.dataset import Dataset, DatasetStatus, Quality
from extensions.quality.domain.quality_report import QualityReport
from extensions.quality.process_limits import TASKS, limits_of, seconds_of
from extensions.quality.stored_examples import stored_examples
from infrastructure.postgres.store import Connection
from projections.projection import Row
from services.datasets.limited_work import LimitedWork, Unfinished

QUALITY = "quality.json"
"""Name of the report beside the examples."""


class Analyzing(LimitedWork[UUID]):
    """An analyzer of valid datasets, one at a time, so that validations are not delayed."""

    NAME, WORKER, AT_ONCE = "analyzing", TASKS, 1

    def start_waiting(self) -> None:
        """Start analyzing the oldest dataset of an account while no other analysis runs."""
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
        self._record(
            dataset_id, f"analyze:{dataset_id}", lambda found: found.record_quality(quality)
        )

    def _report(self, dataset: Dataset) -> QualityReport:
        """Analyze the examples. If the process has no result, the report has no findings."""
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
                return QualityReport(**self._finish(dataset.id, request, limits_of(files.size)))
            except Unfinished as error:
                return QualityReport(
                    unit=files.unit,
                    examples=dataset.examples,
                    analyzed=0,
                    compared=0,
                    stopped=error.exceeded or "failed",
                )


def unanalyzed(connection: Connection, without: Sequence[UUID]) -> list[Row]:
    """Return each account's oldest valid dataset that is not analyzed, except for `without`."""
    return connection.execute(
        "SELECT DISTINCT ON (account_id) account_id, dataset_id FROM datasets "
        "WHERE status = 'ready_for_training' AND quality_ref IS NULL AND NOT dataset_id = ANY(%s) "
        "ORDER BY account_id, uploaded_at, dataset_id",
        [list(without)],
    ).fetchall()
