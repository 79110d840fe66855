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
    has_suffix: bool

    @property
    def heading(self) -> str:
        """What a page of it alone calls it: without a suffix, by its dataset, too."""
        if self.has_suffix or self.dataset is None:
            return self.title
        return f"{self.dataset} · {self.title}"


def names_of(backend: Backend, jobs: Sequence[JobSummary]) -> dict[UUID, JobNames]:
    """The names of some jobs; those of a page, as each costs a reading of the log."""
    with backend.pool.connection() as connection:
        datasets = dataset_names(connection, [job.dataset_id for job in jobs])
    suffixes = {job.id: suffix_of(backend, job.id) for job in jobs}
    return {
        job.id: JobNames(
            title=(suffix := suffixes[job.id]) or job.id.hex[:SHORT],
            dataset=datasets.get(job.dataset_id),
            has_suffix=bool(suffix),
        )
        for job in jobs
    }


def title_of(backend: Backend, job_id: UUID) -> str:
    """What a page calls a job: its suffix, else the beginning of its id."""
    return suffix_of(backend, job_id) or job_id.hex[:SHORT]


def suffix_of(backend: Backend, job_id: UUID) -> str | None:
    """The part of its model's name that a job was approved with; it is in its first event alone."""
    first = next(iter(backend.log.events.get(job_id, limit=1)), None)
    assert isinstance(first, Job.JobApproved)
    return first.suffix
