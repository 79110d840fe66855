"""Validation of uploads in processes with resource limits."""

from __future__ import annotations

import hashlib
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from domain.datasets.dataset import Contents, Dataset, DatasetStatus
from infrastructure.artifacts.store import ArtifactCorrupt
from infrastructure.process.limited_process import Limits
from infrastructure.training.measurements import set_progress
from projections.datasets import unvalidated
from services.datasets.limited_work import LimitedWork, Resources, Unfinished
from services.datasets.line_numbers import LINES
from services.datasets.process_limits import FILTER_SECONDS_PER_MIB, limits_of
from services.datasets.report import Progress, Report, refused, stopped
from services.datasets.stored_examples import stored_examples
from services.datasets.unpacking import Sizes
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

    def __init__(self, resources: Resources, sizes: Sizes, limits: Limits | None = None) -> None:
        super().__init__(resources, limits)
        self._sizes = sizes

    def start_waiting(self) -> None:
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
        limits = (
            limits_of(filtered_size, FILTER_SECONDS_PER_MIB)
            if filtered_size is not None
            else Limits.for_file(
                times * dataset.total_bytes, CPU_SECONDS, CPU_SECONDS_PER_MIB, MEMORY_MIB
            )
        )
        try:
            return Report(**self._finish(dataset.id, request, limits, on_progress))
        except Unfinished as error:
            return stopped(error.exceeded, *read)

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


def stopped_without_parent() -> Report:
    """Return the report of filters whose parent or validation dataset was deleted."""
    return refused(
        "A dataset that the filters need was deleted. Apply the filters to a dataset that exists."
    )


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
