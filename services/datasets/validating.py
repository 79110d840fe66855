"""Validation of uploads in processes with resource limits."""

from __future__ import annotations

import hashlib
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

from domain.datasets.dataset import Contents, Dataset, DatasetStatus
from infrastructure.artifacts.store import ArtifactCorrupt
from infrastructure.process.limited_process import Limits
from infrastructure.training.measurements import set_progress
from projections.datasets import unvalidated
from services.datasets.limited_work import LimitedWork, Unfinished
from services.datasets.line_numbers import LINES
from services.datasets.report import Progress, Report, stopped
from services.datasets.validation import SAMPLE

PACKED = (b"\x1f\x8b", b"PK", b"PAR1")
"""First bytes of files that are compressed."""

PACKED_TIMES = 8
"""Computing time for a byte of a compressed file, as a multiple of that for another one."""

MEMORY_MIB = 1024
CPU_SECONDS, CPU_SECONDS_PER_MIB = 60, 2


class Validating(LimitedWork[UUID]):
    """A validator of the uploads that the read model lists as not validated yet."""

    NAME = "validating"
    FILTERED: ClassVar[bool] = False
    """True if it validates the versions with filters, which an extension applies."""

    def start_waiting(self) -> None:
        """Start validating the oldest upload of each account while threads are free."""
        with self._pool.connection() as connection:
            rows = unvalidated(connection, self.work.excluded, filtered=self.FILTERED)
        oldest = {row["account_id"]: row["dataset_id"] for row in rows}
        self.work.start_in_turn(
            {account_id: (id, partial(self.validate, id)) for account_id, id in oldest.items()}
        )

    def validate(self, dataset_id: UUID) -> None:
        """Validate an upload. If its process fails MOST_FAILURES times, reject the file."""
        dataset = self._log.load(Dataset, dataset_id)
        if dataset.status is DatasetStatus.VALIDATING:
            report = self._examine(dataset)
            self._record(dataset_id, f"validate:{dataset_id}", partial(conclude, report=report))

    def _examine(self, dataset: Dataset) -> Report:
        """Validate an upload. Store its report and examples."""
        report_ref, examples_ref = refs_of(dataset)
        with tempfile.TemporaryDirectory() as directory:
            examples = Path(directory) / "examples.jsonl"
            report = self._report(dataset, Path(directory), examples)
            if report.status is DatasetStatus.READY_FOR_TRAINING:
                self._artifacts.put_file(examples_ref, examples)
                self._artifacts.put_file(f"{home(dataset)}/{LINES}", Path(directory) / LINES)
            if (sample := Path(directory) / SAMPLE).exists():
                self._artifacts.put_file(f"{home(dataset)}/{SAMPLE}", sample)
        self._artifacts.put(report_ref, report.model_dump_json(indent=1).encode())
        return report

    def _report(self, dataset: Dataset, directory: Path, examples: Path) -> Report:
        task, limits = self._task(dataset, directory)
        read = Progress(lines=0, bytes=0)

        def on_progress(progress: dict[str, int]) -> None:
            nonlocal read
            read = Progress(**progress)
            with self._pool.connection() as connection:
                set_progress(connection, dataset.id, *read, dataset.total_bytes)

        request = {
            "examples": str(examples),
            "max_bytes": self._sizes.upload,
            "max_unpacked_bytes": self._sizes.unpacked,
            "options": {
                "keep_duplicates": dataset.options.keep_duplicates,
                "ignore_tools": dataset.options.ignore_tools,
            },
            "columns": self._columns(dataset),
            **task,
        }
        try:
            return Report(**self._finish(dataset.id, request, limits, on_progress))
        except Unfinished as error:
            return stopped(error.exceeded, *read)

    def _task(self, dataset: Dataset, directory: Path) -> tuple[dict[str, Any], Limits]:
        """Return the task of the process and the files that it needs, and its limits."""
        upload = self._upload(dataset, directory)
        with upload.open("rb") as file:
            times = PACKED_TIMES if file.read(4).startswith(PACKED) else 1
        limits = Limits.for_file(
            times * dataset.total_bytes, CPU_SECONDS, CPU_SECONDS_PER_MIB, MEMORY_MIB
        )
        return {"task": "validate", "upload": str(upload)}, limits

    def _upload(self, dataset: Dataset, directory: Path) -> Path:
        (directory / "upload").mkdir()
        return self._artifacts.local_file(dataset.upload_ref, directory / "upload")

    def _columns(self, dataset: Dataset) -> dict[str, str] | None:
        """Return the columns that the owner chose, if any. Raise ArtifactCorrupt if they differ."""
        if dataset.columns_ref is None:
            return None
        content = self._artifacts.get(dataset.columns_ref)
        if hashlib.sha256(content).hexdigest() != dataset.options.columns_sha256:
            raise ArtifactCorrupt(f"{dataset.columns_ref} differs from its hash.")
        return json.loads(content)


def conclude(dataset: Dataset, report: Report) -> None:
    """Accept or reject a dataset according to its report, unless this was done."""
    if dataset.status is not DatasetStatus.VALIDATING:
        return
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
