"""Display names of jobs: their suffixes and the names of their datasets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import UUID

from domain.core.event_log import EventLog
from domain.jobs import events
from gateway.backend import Backend
from gateway.jobs.schemas import JobSummary
from infrastructure.accounts.profiles import dataset_names
from projections.job_detail import rows_of

SHORT = 8  # characters of an ID, which are unique within an account
REMEMBERED = 10_000  # number of jobs whose suffixes are kept in memory
DATASETS = ("dataset_id", "validation_dataset_id")


@dataclass(frozen=True)
class JobNames:
    """The display names of one job."""

    title: str
    """The suffix of the job, or the start of its ID."""
    dataset: str | None
    """None if the dataset was deleted."""
    validation_dataset: str | None
    """None if the job has no validation dataset, for example because it holds out examples."""
    has_suffix: bool
    base_model: str

    @property
    def heading(self) -> str:
        """Heading of the job's page. Without a suffix, it starts with the name of the dataset."""
        if self.has_suffix or self.dataset is None:
            return self.title
        return f"{self.dataset} · {self.title}"


def names_of(backend: Backend, jobs: Sequence[JobSummary]) -> dict[UUID, JobNames]:
    """Return the names of the given jobs, by job ID."""
    return _named(backend, {job.id: dict(job) for job in jobs})


def names_by_id(backend: Backend, job_ids: Iterable[UUID]) -> dict[UUID, JobNames]:
    """Return the names of the jobs that the read model has, by job ID."""
    with backend.pool.connection() as connection:
        rows = rows_of(connection, list(job_ids))
    return _named(backend, {row["job_id"]: row for row in rows})


def _named(backend: Backend, jobs: Mapping[UUID, Mapping[str, Any]]) -> dict[UUID, JobNames]:
    with backend.pool.connection() as connection:
        used = [job[each] for job in jobs.values() for each in DATASETS if job[each] is not None]
        datasets = dataset_names(connection, used)
    suffixes = {job_id: _suffix(backend.log, job_id) for job_id in jobs}
    return {
        job_id: JobNames(
            title=(suffix := suffixes[job_id]) or job_id.hex[:SHORT],
            dataset=datasets.get(job["dataset_id"]),
            validation_dataset=datasets.get(job["validation_dataset_id"]),
            has_suffix=bool(suffix),
            base_model=job["base_model"],
        )
        for job_id, job in jobs.items()
    }


@lru_cache(maxsize=REMEMBERED)
def _suffix(log: EventLog, job_id: UUID) -> str | None:
    """Return a job's suffix, which only its first event has. It never changes: cached."""
    first = next(iter(log.events.get(job_id, limit=1)), None)
    assert isinstance(first, events.JobApproved)
    return first.suffix
