"""Validation of versions with filters, which apply the filters to the examples of their parent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from domain.datasets.dataset import Dataset
from extensions.quality.process_limits import FILTER_SECONDS_PER_MIB, TASKS, limits_of
from extensions.quality.stored_examples import stored_examples
from infrastructure.process.limited_process import Limits
from services.datasets.report import Report, refused
from services.datasets.validating import Validating


class DatasetDeleted(Exception):
    """A dataset that the filters need was deleted."""


class Filtering(Validating):
    """A validator of versions with filters."""

    NAME, WORKER = "filtering", TASKS
    FILTERED = True

    def _report(self, dataset: Dataset, directory: Path, examples: Path) -> Report:
        try:
            return super()._report(dataset, directory, examples)
        except DatasetDeleted:
            return refused(
                "A dataset that the filters need was deleted. Apply the filters to a dataset that "
                "exists."
            )

    def _task(self, dataset: Dataset, directory: Path) -> tuple[dict[str, Any], Limits]:
        filters, parent_id = dataset.options.filters, dataset.options.parent
        assert filters is not None
        assert parent_id is not None
        try:
            upload = self._upload(dataset, directory)
            parent = stored_examples(self._log, self._artifacts, parent_id, directory / "parent")
            other = filters.contaminates and stored_examples(
                self._log, self._artifacts, filters.contaminates, directory / "other"
            )
        except FileNotFoundError as error:
            raise DatasetDeleted from error
        task = {
            "task": "filter",
            "upload": str(upload),
            "filters": filters.model_dump(mode="json"),
            "lines": parent.lines,
            "unit": parent.unit,
            "other_examples": other and other.examples,
        }
        size = parent.size + (other.size if other else 0)
        return task, limits_of(size, FILTER_SECONDS_PER_MIB)
