"""What people call jobs: the suffix that each was approved with, and its dataset's name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from domain.job import Job
from gateway.api.job_answers import JobSummary
from gateway.backend import Backend
from infrastructure.profiles import dataset_names

SHORT = 8  # characters that tell one account's jobs apart


@dataclass(frozen=True)
class JobNames:
    """Of one job."""

    title: str
    """Its suffix, else the beginning of its id."""
    dataset: str | None
    """None if the dataset's name was deleted."""


def names_of(backend: Backend, jobs: Sequence[JobSummary]) -> dict[UUID, JobNames]:
    """The names of some jobs; those of a page, as each costs a reading of the log."""
    with backend.pool.connection() as connection:
        datasets = dataset_names(connection, [job.dataset_id for job in jobs])
    return {
        job.id: JobNames(title_of(backend, job.id), datasets.get(job.dataset_id)) for job in jobs
    }


def title_of(backend: Backend, job_id: UUID) -> str:
    """What a page calls a job: its suffix, else the beginning of its id."""
    return suffix_of(backend, job_id) or job_id.hex[:SHORT]


def suffix_of(backend: Backend, job_id: UUID) -> str | None:
    """The part of its model's name that a job was approved with; it is in its first event alone."""
    first = next(iter(backend.log.events.get(job_id, limit=1)), None)
    assert isinstance(first, Job.JobApproved)
    return first.suffix
