"""Warnings of extensions about the datasets of jobs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from gateway.backend import Backend
from infrastructure.extensions import loaded
from infrastructure.postgres.store import Connection


def dataset_warnings(
    backend: Backend, account_id: UUID, dataset_id: UUID, validation_id: UUID | None
) -> list[str]:
    """Return warnings about the datasets of a new job, as far as they are known."""
    found = loaded(lambda extension: extension.dataset_warnings)
    return [text for each in found for text in each(backend, account_id, dataset_id, validation_id)]


def recorded_warnings(
    connection: Connection, jobs: Sequence[Mapping[str, Any]]
) -> Mapping[UUID, list[str]]:
    """Return warnings about the datasets of jobs, by job ID."""
    said = defaultdict[UUID, list[str]](list)
    for each in loaded(lambda extension: extension.recorded_warnings):
        for job_id, texts in each(connection, jobs).items():
            said[job_id] += texts
    return said
