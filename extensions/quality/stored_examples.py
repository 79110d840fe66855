"""Local copies of the stored examples of a dataset, for a process that reads them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from domain.core.event_log import EventLog
from domain.datasets.dataset import Dataset, DatasetStatus
from domain.datasets.validation_report import ValidationReport
from infrastructure.artifacts.store import Artifacts
from infrastructure.bus.exchange import read
from services.datasets.line_numbers import LINES


class StoredExamples(NamedTuple):
    """Paths of the examples and of their line numbers, and what the numbers count.

    `lines` is None for datasets of earlier versions, whose examples are in lines of their own. The
    size is in bytes, and `total` is the number of examples.
    """

    examples: str
    lines: str | None
    unit: str
    size: int
    total: int


def stored_examples(
    log: EventLog, artifacts: Artifacts, dataset_id: UUID, directory: Path
) -> StoredExamples:
    """Copy the examples of a valid dataset into a new directory, unless the store is local.

    Raise FileNotFoundError if the dataset is not valid any more, or its files are missing.
    """
    dataset = log.load(Dataset, dataset_id)
    if dataset.status is not DatasetStatus.READY_FOR_TRAINING:
        raise FileNotFoundError(f"Dataset {dataset_id} is {dataset.status}.")
    directory.mkdir()
    (directory / "examples").mkdir()
    (directory / "lines").mkdir()
    examples = artifacts.local_file(dataset.ref, directory / "examples")
    try:
        lines = artifacts.local_file(f"{dataset.home}/{LINES}", directory / "lines")
    except FileNotFoundError:
        lines = None
    report = read(ValidationReport, artifacts.get(f"{dataset.home}/report.json"))
    return StoredExamples(
        examples=str(examples),
        lines=None if lines is None else str(lines),
        unit=report.unit,
        size=examples.stat().st_size,
        total=dataset.examples,
    )
