"""Display names and tones of the states of jobs."""

from __future__ import annotations

from typing import NamedTuple

from domain.jobs.job_request import RequestStatus
from domain.jobs.lifecycle import JobStatus, PauseReason
from gateway.jobs.schemas import JobSummary


class PauseLabel(NamedTuple):
    """Labels for a pause reason: in a badge, and as a heading."""

    badge: str
    heading: str


PAUSED = {
    PauseReason.OWNER: PauseLabel("paused by you", "Paused by you"),
    PauseReason.BALANCE: PauseLabel("paused: balance at zero", "Paused: the balance reached zero"),
    PauseReason.CAPACITY: PauseLabel(
        "paused: too few GPUs", "Paused: the region has too few usable GPUs"
    ),
    PauseReason.MAX_COST: PauseLabel(
        "paused: maximum cost", "Paused: the job reached its maximum cost"
    ),
    PauseReason.OVERRUN: PauseLabel(
        "paused: far over its estimate", "Paused: the job took far longer than estimated"
    ),
    PauseReason.BUDGET: PauseLabel("paused: budget", "Paused: a budget is used up"),
    PauseReason.SUSPENDED: PauseLabel("paused: suspended", "Paused: the account was suspended"),
}

TONES = {
    JobStatus.TRAINING: "calm is-live",
    JobStatus.EVALUATING: "calm is-live",
    JobStatus.TRAINED_PENDING_REGISTER: "calm is-live",
    JobStatus.REGISTERED: "good",
    JobStatus.PAUSED: "warn",
    JobStatus.FAILED: "bad",
    JobStatus.CANCELLED: "",
}

REQUEST_STATES = {
    RequestStatus.VALIDATING_FILES: "validating files",
    RequestStatus.FAILED: "failed",
    RequestStatus.CANCELLED: "cancelled",
}
"""Display names of the states of requests that have no job."""

REQUEST_TONES = {
    RequestStatus.VALIDATING_FILES: "calm is-live",
    RequestStatus.FAILED: "bad",
    RequestStatus.CANCELLED: "",
}


def state_of(job: JobSummary) -> str:
    """Return the display name of a state: the phase of a running job, otherwise its status."""
    if job.status is JobStatus.PAUSED and job.pause_reason is not None:
        return PAUSED[job.pause_reason].badge
    return job.status if job.status.is_final else job.phase
