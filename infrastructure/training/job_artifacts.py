"""Places of a job's artifacts."""

from __future__ import annotations

from domain.core.errors import NotFound
from domain.jobs.job import Job
from infrastructure.artifacts.store import Artifacts


def job_prefix(job: Job) -> str:
    """Return the prefix of all artifacts that the trainers of a job may write."""
    return f"jobs/{job.account_id}/{job.id}"


def kept_log_ref(job: Job, segment: int) -> str:
    """Return the ref of the trainer output of a segment, which only operators can read."""
    return f"{job_prefix(job)}/logs/segment-{segment}.log"


def kept_log(artifacts: Artifacts, job: Job, segment: int) -> str:
    """Return the complete output of the trainer of a segment. Raise NotFound if there is none."""
    try:
        return artifacts.get(kept_log_ref(job, segment)).decode(errors="replace")
    except FileNotFoundError:
        raise NotFound(
            f"There is no output of launch {segment}. Either the launch is still running, or the "
            "job had fewer launches."
        ) from None
