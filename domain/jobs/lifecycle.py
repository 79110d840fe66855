"""The states of a job, and the effect of each command or fault in each state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from domain.core.errors import WrongState


class JobStatus(StrEnum):
    """States of a job."""

    TRAINING = "training"
    EVALUATING = "evaluating"
    TRAINED_PENDING_REGISTER = "trained_pending_register"
    REGISTERED = "registered"
    PAUSED = "paused"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """True if a job in this state can never run again."""
        return self in (JobStatus.REGISTERED, JobStatus.FAILED, JobStatus.CANCELLED)


class PauseReason(StrEnum):
    """Reason why a job is paused."""

    BALANCE = "balance"  # the balance does not pay for the job
    OWNER = "owner"  # the owner requested it
    CAPACITY = "capacity"  # the region no longer has enough GPUs


class SegmentEnd(StrEnum):
    """Reason why a segment ended."""

    COMPLETED = "completed"
    STOPPED = "stopped"  # the owner requested it, or the host shut down
    LEASE_ENDED = "lease_ended"  # the paid time ran out
    CRASHED = "crashed"  # the trainer failed, or its process was lost


class Command(StrEnum):
    """The owner's commands, and two faults: an empty balance and a crash."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    DEPLETE = "deplete"
    CRASH = "crash"


class Effect(StrEnum):
    """Effects of a command on a job."""

    PAUSES = "pauses"
    RESUMES = "resumes"
    CANCELS = "cancels"
    RELAUNCHES = "relaunches or fails"
    UNCHANGED = "nothing"  # accepted; nothing is left to do
    ONCE = "nothing if repeated, otherwise refused"
    REFUSED = "refused"


@dataclass(frozen=True)
class Rule:
    """The effect of a command in a state, and its description.

    The rule of a refused command also suggests what to do.
    """

    effect: Effect
    sentence: str


PAUSES = Rule(
    Effect.PAUSES,
    "The trainer saves a checkpoint and exits. A queued job leaves the queue.",
)
CANCELS = Rule(
    Effect.CANCELS,
    "The trainer saves and exits, and its time is settled to the second. A queued job is cancelled "
    "at once. The checkpoint is kept for the retention time, 30 days by default.",
)
DEPLETES = Rule(
    Effect.PAUSES,
    "The trainer saves at the end of its paid time and exits. A queued job is paused when its turn "
    "comes. If the balance pays for it again, the job is relaunched.",
)
CRASHES = Rule(
    Effect.RELAUNCHES,
    "The failure class decides if the job fails or is relaunched from its last checkpoint. It is "
    "relaunched at most three times without progress: at once, after 30 s and after 5 min. A "
    "micro-batch that is too large for the memory is halved once. A pending cancel or pause takes "
    "effect instead of the relaunch.",
)
NOTHING_RUNS = Rule(Effect.UNCHANGED, "The job does not run and is not charged.")

_once = partial(Rule, Effect.ONCE)
_refused = partial(Rule, Effect.REFUSED)
_unchanged = partial(Rule, Effect.UNCHANGED)
_RUNS = {
    Command.PAUSE: PAUSES,
    Command.CANCEL: CANCELS,
    Command.DEPLETE: DEPLETES,
    Command.CRASH: CRASHES,
}
_RESTS = {Command.DEPLETE: NOTHING_RUNS, Command.CRASH: NOTHING_RUNS}

TABLE: Mapping[JobStatus, Mapping[Command, Rule]] = {
    JobStatus.TRAINING: _RUNS
    | {Command.RESUME: _once("The job is training. Only a paused job can be resumed.")},
    JobStatus.EVALUATING: _RUNS
    | {Command.RESUME: _once("The job is evaluating. Only a paused job can be resumed.")},
    JobStatus.TRAINED_PENDING_REGISTER: _RUNS
    | {
        Command.PAUSE: _refused(
            "The adapter is being registered, which takes about a second. "
            "Wait for it, or cancel the job."
        ),
        Command.RESUME: _once("The adapter is being registered. Wait until it is done."),
        Command.DEPLETE: Rule(
            Effect.PAUSES,
            "The trainer registers within the grace period, at the platform's cost. If it does "
            "not, the job is paused and evaluates again after a resume.",
        ),
    },
    JobStatus.REGISTERED: _RESTS
    | {
        Command.PAUSE: _refused("The job is registered and no longer runs. Deploy its model."),
        Command.RESUME: _refused(
            "The job is registered and has nothing left to do. Deploy its model, "
            "or start a new job."
        ),
        Command.CANCEL: _refused(
            "The job is registered and settled. Its model is stored free of charge; delete it "
            "if you do not need it."
        ),
    },
    JobStatus.PAUSED: _RESTS
    | {
        Command.PAUSE: _unchanged("The job is already paused."),
        Command.RESUME: Rule(
            Effect.RESUMES,
            "The job waits for a GPU and continues from its last checkpoint at today's rate. "
            "If it was paused in evaluation, it evaluates again.",
        ),
        Command.CANCEL: Rule(
            Effect.CANCELS,
            "At once. The checkpoint is kept for the retention time, 30 days by default.",
        ),
    },
    JobStatus.FAILED: _RESTS
    | {
        Command.PAUSE: _refused("The job has failed and no longer runs. Start a new job."),
        Command.RESUME: _refused(
            "The job has failed and cannot be resumed. Promote its checkpoint to a model, or "
            "follow the advice on its page and start a new job."
        ),
        Command.CANCEL: _refused("The job has failed and is settled. Start a new job."),
    },
    JobStatus.CANCELLED: _RESTS
    | {
        Command.PAUSE: _refused("The job is cancelled and no longer runs. Start a new job."),
        Command.RESUME: _refused(
            "The job is cancelled and cannot be resumed. Promote its checkpoint to a model, "
            "or start a new job."
        ),
        Command.CANCEL: _unchanged("The job is already cancelled."),
    },
}
"""The rule for each state and command."""

PAUSE_PENDING = "The job is about to pause. Resume it when it is paused, in a few seconds."
CANCEL_PENDING = "The job is being cancelled. Start a new job."


def rule(status: JobStatus, command: Command) -> Rule:
    """Return the rule for a command in a state."""
    return TABLE[status][command]


def require(status: JobStatus, command: Command, *, repeated: bool = False) -> Effect:
    """Return the effect of a command in a state. Raise WrongState if the state does not allow it.

    `repeated` is true if the same command already brought the job into this state.
    """
    found = rule(status, command)
    if found.effect is Effect.REFUSED or (found.effect is Effect.ONCE and not repeated):
        raise WrongState(found.sentence)
    return found.effect
