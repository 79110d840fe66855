"""What a job does, in plain words, as its badge, its page and its timeline say it."""

from __future__ import annotations

from typing import NamedTuple

from domain.jobs.lifecycle import JobStatus, PauseReason
from gateway.jobs.schemas import JobSummary


class PauseWords(NamedTuple):
    """Why a job is paused: beside other states, and as a heading of its own."""

    badge: str
    heading: str


PAUSED = {
    PauseReason.OWNER: PauseWords("paused by you", "Paused by you"),
    PauseReason.BALANCE: PauseWords(
        "paused by an empty balance", "Paused when the balance reached zero"
    ),
    PauseReason.CAPACITY: PauseWords(
        "paused: too few GPUs", "Paused: the region no longer has that many GPUs"
    ),
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


def state_of(job: JobSummary) -> str:
    """What a job does, in plain words: the phase while it runs, which says more than the status."""
    if job.status is JobStatus.PAUSED and job.pause_reason is not None:
        return PAUSED[job.pause_reason].badge
    return job.status if job.status.is_final else job.phase
