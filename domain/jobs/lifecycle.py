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
    CAPACITY = "capacity"  # the region has too few usable GPUs
    MAX_COST = "max_cost"  # the job's maximum cost is used up
    OVERRUN = "overrun"  # the job took several times its estimated time; its guarantee ended
    BUDGET = "budget"  # a budget of the account or an API key is used up
    SUSPENDED = "suspended"  # an operator suspended the account


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
    ONCE = "nothing if the command is repeated, otherwise refused"
    REFUSED = "refused"


@dataclass(frozen=True)
class Rule:
    """The effect of a command in a state, and its description; of a refusal, with a suggestion."""

    effect: Effect
    sentence: str


PAUSES = Rule(
    Effect.PAUSES, "The trainer saves a checkpoint and exits. A queued job leaves the queue."
)
CANCELS = Rule(
    Effect.CANCELS,
    "The trainer saves a checkpoint and exits. EcoLink bills its time to the second. A queued "
    "job is cancelled immediately. EcoLink keeps the checkpoint for the retention time, 30 "
    "days by default.",
)
DEPLETES = Rule(
    Effect.PAUSES,
    "The trainer saves a checkpoint at the end of its paid time and exits. A queued job "
    "pauses when its turn comes. If the balance covers the job again by then, EcoLink "
    "relaunches the job.",
)
CRASHES = Rule(
    Effect.RELAUNCHES,
    "The failure class decides if the job fails or if EcoLink relaunches it from its last "
    "checkpoint. Without progress, EcoLink relaunches a job at most three times: immediately, "
    "after 30 s and after 5 min. If a micro-batch does not fit into memory, EcoLink halves it "
    "once. If a cancel or pause is pending, the job is cancelled or paused and not relaunched.",
)
NOTHING_RUNS = Rule(Effect.UNCHANGED, "The job does not run and costs nothing.")

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
    | {Command.RESUME: _once("The job is training. You can resume only a paused job.")},
    JobStatus.EVALUATING: _RUNS
    | {Command.RESUME: _once("The job is evaluating. You can resume only a paused job.")},
    JobStatus.TRAINED_PENDING_REGISTER: _RUNS
    | {
        Command.PAUSE: _refused(
            "EcoLink is registering the adapter, which takes about a second. Wait, or cancel "
            "the job."
        ),
        Command.RESUME: _once(
            "EcoLink is registering the adapter. You can resume only a paused job."
        ),
        Command.DEPLETE: Rule(
            Effect.PAUSES,
            "The trainer registers the adapter within the grace period, at EcoLink's cost. If "
            "it does not, the job pauses and evaluates again after a resume.",
        ),
    },
    JobStatus.REGISTERED: _RESTS
    | {
        Command.PAUSE: _refused("The job is registered and no longer runs. Deploy its model."),
        Command.RESUME: _refused(
            "The job is registered, so there is nothing to resume. Deploy its model, or start "
            "a new job."
        ),
        Command.CANCEL: _refused(
            "The job is registered and billed. EcoLink stores its model free of charge. "
            "Delete the model if you do not need it."
        ),
    },
    JobStatus.PAUSED: _RESTS
    | {
        Command.PAUSE: _unchanged("The job is already paused."),
        Command.RESUME: Rule(
            Effect.RESUMES,
            "The job waits for a GPU and continues from its last checkpoint at today's rate. "
            "If it paused during the evaluation, it evaluates again.",
        ),
        Command.CANCEL: Rule(
            Effect.CANCELS,
            "The job is cancelled immediately. EcoLink keeps the checkpoint for the retention "
            "time, 30 days by default.",
        ),
    },
    JobStatus.FAILED: _RESTS
    | {
        Command.PAUSE: _refused("The job has failed and no longer runs. Start a new job."),
        Command.RESUME: _refused(
            "The job has failed and cannot be resumed. Promote its checkpoint to a model, or "
            "follow the advice on its page and start a new job."
        ),
        Command.CANCEL: _refused("The job has failed and is billed. Start a new job."),
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

PAUSE_PENDING = "The job is about to pause. Resume it in a few seconds, when it is paused."
CANCEL_PENDING = "The job is being cancelled. Start a new job."


def rule(status: JobStatus, command: Command) -> Rule:
    """Return the rule for a command in a state."""
    return TABLE[status][command]


def require(status: JobStatus, command: Command, *, repeated: bool = False) -> Effect:
    """Return the effect of a command. `repeated`: the same command led to this state before."""
    found = rule(status, command)
    if found.effect is Effect.REFUSED or (found.effect is Effect.ONCE and not repeated):
        raise WrongState(found.sentence)
    return found.effect
