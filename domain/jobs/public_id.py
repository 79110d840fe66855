"""Public IDs of jobs. Events use the job's UUID."""

from __future__ import annotations

from uuid import UUID

JOB_PREFIX = "ftjob-"


def job_name(job_id: UUID) -> str:
    """Return the public ID of a job."""
    return f"{JOB_PREFIX}{job_id.hex}"
