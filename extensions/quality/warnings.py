"""Warnings about the datasets of jobs: near-duplicates, and shared examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from domain.datasets.dataset import Dataset, DatasetStatus
from extensions.quality.comparisons import (
    ComparisonKind,
    ComparisonState,
    comparison,
    contaminations,
    request_comparison,
)
from gateway.backend import Backend
from infrastructure.postgres.store import Connection
from projections.datasets import datasets_among


def dataset_warnings(
    backend: Backend, account_id: UUID, dataset_id: UUID, validation_id: UUID | None
) -> list[str]:
    """Return warnings about near-duplicates and shared examples, as far as they are known."""
    quality = backend.log.load(Dataset, dataset_id).quality
    analyzed, findings = (quality.analyzed, quality.findings) if quality else (0, {})
    said = duplicate_warnings(analyzed, findings, has_validation=validation_id is not None)
    if validation_id is not None:
        counts = _contamination_counts(backend, account_id, dataset_id, validation_id)
        said += contamination_warnings(counts)
    return said


def _contamination_counts(
    backend: Backend, account_id: UUID, dataset_id: UUID, validation_id: UUID
) -> Mapping[str, int] | None:
    """Return a comparison's numbers, or None.

    The first call asks for the comparison if both datasets are valid.
    """
    if dataset_id == validation_id:
        return None  # the request is refused for this
    key = (dataset_id, validation_id, ComparisonKind.CONTAMINATION)
    with backend.pool.connection() as connection:
        row = comparison(connection, key)
    if row is None and all(
        backend.log.load(Dataset, each).status is DatasetStatus.READY_FOR_TRAINING
        for each in (dataset_id, validation_id)
    ):
        with backend.pool.connection() as connection:
            request_comparison(connection, account_id, key)
    return row["counts"] if row and row["state"] == ComparisonState.DONE else None


def recorded_warnings(
    connection: Connection, jobs: Sequence[Mapping[str, Any]]
) -> dict[UUID, list[str]]:
    """Return warnings about the jobs' datasets, by job ID, with a fixed number of queries."""
    found = {
        row["dataset_id"]: row
        for row in datasets_among(connection, [job["dataset_id"] for job in jobs])
    }
    pairs = [(job["dataset_id"], job["validation_dataset_id"]) for job in jobs]
    shared = contaminations(connection, [(one, other) for one, other in pairs if other is not None])
    said: dict[UUID, list[str]] = {}
    for job, pair in zip(jobs, pairs, strict=True):
        row = found.get(job["dataset_id"]) or {}
        own = pair[1] is not None
        analyzed, findings = row.get("analyzed") or 0, row.get("findings") or {}
        said[job["job_id"]] = [
            *duplicate_warnings(analyzed, findings, has_validation=own),
            *contamination_warnings(shared.get(pair)),
        ]
    return said


DUPLICATE_SHARE = 0.02
"""Share of near-duplicates from which a job is warned about them."""


def duplicate_warnings(
    analyzed: int, findings: Mapping[str, int], *, has_validation: bool
) -> list[str]:
    """Return a warning if many of the analyzed examples are nearly equal to an earlier one."""
    count = findings.get("near_duplicate", 0)
    if not count or count < DUPLICATE_SHARE * analyzed:
        return []
    share = count / analyzed
    text = (
        f"{_examples(count)} of the dataset ({share:.0%}) {_are(count)} nearly equal to an earlier "
        "one, so training repeats their content."
    )
    if not has_validation:
        text += (
            " Held-out examples may then be trained, too, and the held-out loss looks better than "
            "it is."
        )
    return [f"{text} The page of the dataset can remove them."]


def contamination_warnings(counts: Mapping[str, int] | None) -> list[str]:
    """Return a warning if training examples are also in the validation dataset."""
    if not counts or not counts["affected"]:
        return []
    found, exact = counts["exact"] + counts["near"], counts["exact"]
    return [
        f"{_examples(counts['affected'])} of the validation dataset {_are(counts['affected'])} "
        f"also in the training dataset, exactly or nearly: {_examples(found)}, {exact:,} of them "
        "exactly. The validation loss looks better than it is. The page of the training dataset "
        "can remove them."
    ]


def _examples(count: int) -> str:
    return "1 example" if count == 1 else f"{count:,} examples"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
