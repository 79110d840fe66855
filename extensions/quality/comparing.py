"""Requested comparisons of two valid datasets."""

from __future__ import annotations

import json
import math
import tempfile
import time
from functools import partial
from pathlib import Path
from uuid import UUID

from domain.datasets.dataset import Dataset, DatasetStatus
from extensions.quality.comparisons import (
    Key,
    comparisons_without_dataset,
    delete_comparison,
    finish_comparison,
    waiting_comparisons,
)
from extensions.quality.process_limits import TASKS, limits_of, seconds_of
from extensions.quality.stored_examples import stored_examples
from services.datasets.limited_work import LimitedWork, Unfinished

CLEANING_SECONDS = 60
"""Seconds between two searches for comparisons of deleted datasets."""


class Comparing(LimitedWork[Key]):
    """Compares the pairs of datasets that pages and requests ask for, one at a time."""

    NAME, WORKER, AT_ONCE = "comparing", TASKS, 1
    _cleaned_at = -math.inf

    def start_waiting(self) -> None:
        """Start the oldest comparison of an account while no other one runs."""
        with self._pool.connection() as connection:
            rows = waiting_comparisons(connection, self.work.waiting)
        self.work.start_in_turn(
            {
                row["account_id"]: (
                    key := (row["dataset_id"], row["other_id"], row["kind"]),
                    partial(self.compare, key),
                )
                for row in rows
            }
        )
        if time.monotonic() >= self._cleaned_at + CLEANING_SECONDS:
            self._cleaned_at = time.monotonic()
            self.delete_leftovers()

    def compare(self, key: Key) -> None:
        """Compare two datasets and store the result. One that fails is not repeated."""
        dataset_id, other_id, kind = key
        try:
            ref, counts = self._result(key)
        except (Unfinished, FileNotFoundError) as error:
            self._logger.warning("%s of %s and %s: %s", kind, dataset_id, other_id, error)
            ref, counts = None, {}
        with self._pool.connection() as connection:
            finish_comparison(connection, key, ref, counts)
        self._delete_leftover(key, ref)

    def delete_leftovers(self) -> None:
        """Delete the comparisons of deleted datasets. A difference has texts of both."""
        with self._pool.connection() as connection:
            rows = comparisons_without_dataset(connection)
        for row in rows:
            key = (row["dataset_id"], row["other_id"], row["kind"])
            try:
                self._delete_leftover(key, row["ref"])
            except Exception:  # the next search repeats it
                self._logger.exception("%s of %s and %s was not deleted", key[2], *key[:2])

    def _delete_leftover(self, key: Key, ref: str | None) -> None:
        """Delete a comparison and its result if one of its datasets was deleted."""
        found = (self._log.find(Dataset, each) for each in key[:2])
        if any(each is None or each.status is DatasetStatus.DELETED for each in found):
            if ref is not None:
                self._artifacts.delete(ref)
            with self._pool.connection() as connection:
                delete_comparison(connection, key)

    def _result(self, key: Key) -> tuple[str, dict[str, int]]:
        """Compare two datasets. Return the ref of the stored result and its numbers."""
        dataset_id, other_id, kind = key
        dataset = self._log.load(Dataset, dataset_id)
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            own = stored_examples(self._log, self._artifacts, dataset_id, directory / "own")
            other = stored_examples(self._log, self._artifacts, other_id, directory / "other")
            size = own.size + other.size
            request = {
                "task": kind,
                "examples": own.examples,
                "lines": own.lines,
                "unit": own.unit,
                "total": own.total,
                "other_examples": other.examples,
                "other_lines": other.lines,
                "other_unit": other.unit,
                "other_total": other.total,
                "same_upload": self._filtered_from(dataset, other_id),
                "seconds": seconds_of(size),
            }
            result = self._finish(key, request, limits_of(size))
        ref = f"{dataset.home}/comparisons/{kind}-{other_id}.json"
        self._artifacts.put(ref, json.dumps(result).encode())
        return ref, {name: value for name, value in result.items() if type(value) is int}

    def _filtered_from(self, dataset: Dataset, other_id: UUID) -> bool:
        """Return True if only filters made the dataset from the other one."""
        while dataset.options.is_filtered and (parent := dataset.options.parent) is not None:
            if parent == other_id:
                return True
            dataset = self._log.load(Dataset, parent)
        return False
