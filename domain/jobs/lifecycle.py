"""The states of a job, and what each command and each mishap does in each of them: one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from domain.core.errors import WrongState


class JobStatus(StrEnum):
    """States of the job status reference."""

    TRAINING = "training"
    EVALUATING = "evaluating"
    TRAINED_PENDING_REGISTER = "trained_pending_register"
    REGISTERED = "registered"
    PAUSED = "paused"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether such a job never runs again."""
        return self in (JobStatus.REGISTERED, JobStatus.FAILED, JobStatus.CANCELLED)


class PauseReason(StrEnum):
    """Why a job is paused."""

    BALANCE = "balance"  # it reached zero
    OWNER = "owner"  # the account holder asked
    CAPACITY = "capacity"  # the region no longer has that many GPUs


class SegmentEnd(StrEnum):
    """Why a segment of a job ended."""

    COMPLETED = "completed"
    STOPPED = "stopped"  # its owner asked for it, or its host shuts down
    LEASE_ENDED = "lease_ended"  # its paid time ran out
    CRASHED = "crashed"  # its trainer failed, or its process was lost


class Command(StrEnum):
    """What can come to a job: its owner's commands, an empty balance, and a crash."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    DEPLETE = "deplete"
    CRASH = "crash"


class Effect(StrEnum):
    """What becomes of the job."""

    PAUSES = "pauses"
    RESUMES = "resumes"
    CANCELS = "cancels"
    RELAUNCHES = "relaunches or fails"
    UNCHANGED = "nothing"  # accepted; there is nothing left to do
    ONCE = "nothing when repeated, else refused"
    REFUSED = "refused"


@dataclass(frozen=True)
class Rule:
    """One cell: the effect, and what the user is told; of a refusal, also what would work."""

    effect: Effect
    sentence: str


PAUSES = Rule(
    Effect.PAUSES,
    "The trainer saves a checkpoint and exits; a job that waits for a GPU leaves the queue.",
)
CANCELS = Rule(
    Effect.CANCELS,
    "The trainer saves and exits, and its time is settled to the second; a job that waits for a "
    "GPU is cancelled at once. What was saved is kept for 30 days, if the operator set no other "
    "time.",
)
DEPLETES = Rule(
    Effect.PAUSES,
    "The trainer saves at the end of its paid time and exits; a job that waits for a GPU is "
    "paused when its turn comes. Should there be money after all, it is relaunched.",
)
CRASHES = Rule(
    Effect.RELAUNCHES,
    "By its failure class: relaunched from the last checkpoint, at most 3 times until a later one "
    "is saved (at once, after 30 s, after 5 min), or failed. A micro batch that was too large for "
    "the memory is halved, once. With a cancel on its way it is cancelled; with a pause, paused "
    "instead of relaunched.",
)
NOTHING_RUNS = Rule(Effect.UNCHANGED, "Nothing runs and nothing is charged.")

TABLE: Mapping[JobStatus, Mapping[Command, Rule]] = MappingProxyType(
    {
        JobStatus.TRAINING: {
            Command.PAUSE: PAUSES,
            Command.RESUME: Rule(
                Effect.ONCE,
                "The job is training; only a paused job can be resumed. Pause it first.",
            ),
            Command.CANCEL: CANCELS,
            Command.DEPLETE: DEPLETES,
            Command.CRASH: CRASHES,
        },
        JobStatus.EVALUATING: {
            Command.PAUSE: PAUSES,
            Command.RESUME: Rule(
                Effect.ONCE,
                "The job is evaluating; only a paused job can be resumed. Pause it first.",
            ),
            Command.CANCEL: CANCELS,
            Command.DEPLETE: DEPLETES,
            Command.CRASH: CRASHES,
        },
        JobStatus.TRAINED_PENDING_REGISTER: {
            Command.PAUSE: Rule(
                Effect.REFUSED,
                "The adapter is being registered, which takes about a second. "
                "Wait for it, or cancel the job.",
            ),
            Command.RESUME: Rule(
                Effect.ONCE,
                "The adapter is being registered; only a paused job can be resumed. Wait for it.",
            ),
            Command.CANCEL: CANCELS,
            Command.DEPLETE: Rule(
                Effect.PAUSES,
                "Registering ends within the grace time, at the platform's cost; only should it "
                "not, the job is paused and evaluates again when it is resumed.",
            ),
            Command.CRASH: CRASHES,
        },
        JobStatus.REGISTERED: {
            Command.PAUSE: Rule(
                Effect.REFUSED,
                "The job is registered; nothing runs that could be paused. Deploy its model.",
            ),
            Command.RESUME: Rule(
                Effect.REFUSED,
                "The job is registered; it has nothing left to do. Deploy its model, "
                "or start a new job.",
            ),
            Command.CANCEL: Rule(
                Effect.REFUSED,
                "The job is registered and settled; there is nothing to cancel. "
                "Its model costs nothing while it is not deployed.",
            ),
            Command.DEPLETE: NOTHING_RUNS,
            Command.CRASH: NOTHING_RUNS,
        },
        JobStatus.PAUSED: {
            Command.PAUSE: Rule(Effect.UNCHANGED, "The job is paused already."),
            Command.RESUME: Rule(
                Effect.RESUMES,
                "It waits for a GPU and goes on from its last checkpoint, at today's rate; paused "
                "in evaluation, it evaluates again.",
            ),
            Command.CANCEL: Rule(
                Effect.CANCELS,
                "At once. What was saved is kept for 30 days, if the operator set no other time.",
            ),
            Command.DEPLETE: NOTHING_RUNS,
            Command.CRASH: NOTHING_RUNS,
        },
        JobStatus.FAILED: {
            Command.PAUSE: Rule(
                Effect.REFUSED,
                "The job has failed; nothing runs that could be paused. Start a new job.",
            ),
            Command.RESUME: Rule(
                Effect.REFUSED,
                "The job has failed for good. Promote what it saved to a model, or follow the "
                "advice on its page and start a new job.",
            ),
            Command.CANCEL: Rule(
                Effect.REFUSED,
                "The job has failed and is settled; there is nothing to cancel. Start a new job.",
            ),
            Command.DEPLETE: NOTHING_RUNS,
            Command.CRASH: NOTHING_RUNS,
        },
        JobStatus.CANCELLED: {
            Command.PAUSE: Rule(
                Effect.REFUSED,
                "The job is cancelled; nothing runs that could be paused. Start a new job.",
            ),
            Command.RESUME: Rule(
                Effect.REFUSED,
                "The job is cancelled for good. Promote what it saved to a model, "
                "or start a new job.",
            ),
            Command.CANCEL: Rule(Effect.UNCHANGED, "The job is cancelled already."),
            Command.DEPLETE: NOTHING_RUNS,
            Command.CRASH: NOTHING_RUNS,
        },
    }
)
"""Every state and every command."""

PAUSE_PENDING = "The job is about to pause. Resume it once it is paused, in a few seconds."
CANCEL_PENDING = "The job is being cancelled, for good. Start a new job."


def rule(status: JobStatus, command: Command) -> Rule:
    """What a command does in a state."""
    return TABLE[status][command]


def require(status: JobStatus, command: Command, *, repeated: bool = False) -> Effect:
    """What a command does in a state; raises WrongState with the sentence if it is refused.

    `repeated` says that the job is in this state because of the same command, given before.
    """
    found = rule(status, command)
    if found.effect is Effect.REFUSED or (found.effect is Effect.ONCE and not repeated):
        raise WrongState(found.sentence)
    return found.effect
