"""A job's events in plain words, for its timeline."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from domain.billing.meter import Meter
from domain.catalog.display_names import DisplayNames
from domain.core.aggregate import Event
from domain.core.durations import spoken
from domain.core.money import Toward, dollars, exact_dollars
from domain.deployments.deployment import Deployment
from domain.jobs.failures import FAILURES
from domain.jobs.job import Job
from domain.jobs.lifecycle import SegmentEnd
from gateway.events.feed import FeedEvent
from gateway.jobs.pages.states import PAUSED

ENDED = {
    SegmentEnd.COMPLETED: "The trainer is done",
    SegmentEnd.STOPPED: "The trainer saved and exited",
    SegmentEnd.LEASE_ENDED: "The paid time was used up; the trainer saved and exited",
}

PARTS = {
    "weights": "weights",
    "optimizer": "optimizer",
    "random": "random states",
    "position": "position in the data",
}
"""Of a trainer's state, as `domain.training.checkpoint.StateHashes` has them."""

SETTINGS = {"code": "EcoLink's version"}
"""Of how a trainer computes, whose names there are no words for a reader."""

MINOR = (
    Meter.MeterOpened,
    Meter.LeaseGranted,
    Meter.LeaseExtended,
    Meter.MinuteMetered,
    Meter.MeterClosed,
    Job.CheckpointPruned,
)
"""What a reader of the story wants only when every minute matters."""


TOLD = Job.Event | Meter.Event | Deployment.Event
"""Of an account's events those that the story of a job is made of."""


@dataclass(frozen=True)
class Entry:
    """One line of a timeline."""

    sequence: int
    happened_at: datetime
    topic: str
    text: str
    tone: str  # of parts.html's badge
    minor: bool

    @classmethod
    def of(cls, told: FeedEvent, places: DisplayNames) -> Entry:
        """The line for an event."""
        event = told.event
        text, tone = _story(told, places)
        minor = isinstance(event, MINOR)
        return cls(told.sequence, event.timestamp, event.TOPIC, text, tone, minor)


def entries_of(events: Iterable[FeedEvent], places: DisplayNames) -> list[Entry]:
    """The lines of those events that are a job's, its meters' or its deployments'."""
    return [Entry.of(told, places) for told in events if isinstance(told.event, TOLD)]


def _story(told: FeedEvent, places: DisplayNames) -> tuple[str, str]:
    """A sentence and its tone."""
    event = told.event
    if told.deployment is not None:
        return _deployed(event, told.deployment.model)
    if isinstance(event, Job.Event):
        return _ended(event) or _command(event, places) or _progress(event) or _saved(event)
    return _money(event), ""


def _progress(event: Job.Event) -> tuple[str, str] | None:
    """How a launch goes on."""
    match event:
        case Job.SegmentAllocated():
            return f"GPUs are free; launch {event.segment} begins.", "calm"
        case Job.PodStarted():
            return "The GPUs are bound. The meter runs from here.", "calm"
        case Job.TrainingStarted() if event.step == 0:
            # Held out of the dataset, or of a dataset of its own: the event does not say.
            judged = f", with {event.eval_examples:,} to evaluate on" if event.eval_examples else ""
            return (
                f"Training began: {event.total_steps:,} steps over {event.train_examples:,} "
                f"examples{judged}.",
                "calm",
            )
        case Job.TrainingStarted():
            return f"Training goes on after step {event.step:,} of {event.total_steps:,}.", "calm"
        case Job.EvaluationStarted():
            return f"All {event.step:,} steps are done. Eval set running.", "calm"
        case Job.EvaluationCompleted():
            return (
                f"Held-out loss {event.loss_after:.4f}; the base model's is "
                f"{event.loss_before:.4f}. Adapter being registered.",
                "calm",
            )
        case _:
            return None


def _resumed(event: Job.ResumeCertified) -> tuple[str, str]:
    """What is as it was saved, and what cannot be known to be, or is computed otherwise."""
    text = f"Resumed from step {event.step:,}"
    if event.unchecked:
        parts = ", ".join(PARTS.get(name, name) for name in event.unchecked)
        text += f". Not compared with what was saved: {parts}."
    else:
        text += ", with the state that was saved."
    if event.differences:
        names = (each.setting for each in event.differences)
        settings = ", ".join(SETTINGS.get(name, name.replace("_", " ")) for name in names)
        text += (
            f" It is computed otherwise than before ({settings}), so that the last digits of "
            "losses may differ."
        )
    return text, "warn" if event.unchecked or event.differences else "good"


def _saved(event: Job.Event) -> tuple[str, str]:
    """What became of checkpoints and models."""
    match event:
        case Job.CheckpointSaved():
            held_out = "" if event.eval_loss is None else f", held-out loss {event.eval_loss:.4f}"
            return (
                f"Checkpoint saved at step {event.step:,}: train loss {event.train_loss:.4f}"
                f"{held_out}.",
                "good",
            )
        case Job.CheckpointRejected():
            why = event.reason.replace("_", " ")
            credited = "" if event.kept_seconds is None else "; the lost time is credited"
            return (
                f"The checkpoint of step {event.step:,} could not be used ({why}){credited}.",
                "warn",
            )
        case Job.ResumeCertified():
            return _resumed(event)
        case Job.CheckpointPruned():
            return f"The checkpoint of step {event.step:,} was deleted for newer ones.", ""
        case Job.AdapterPromoted():
            return f"What was saved is the model {event.model}.", "good"
        case Job.AdapterExpired():
            return "What was saved was deleted: its time was over.", ""
        case Job.ModelDeleted():
            return "The model was deleted.", ""
        case _:
            return f"{event.TOPIC}.", ""


def _command(event: Job.Event, places: DisplayNames) -> tuple[str, str] | None:
    """What its owner, or an empty balance, did to it."""
    match event:
        case Job.JobApproved():
            plan = event.plan
            warning = " ".join(plan.warnings)
            gpus, region = places.gpus(plan.gpu_count, plan.gpu_type), places.region(plan.region)
            return (
                f"Approved: {plan.base_model} on {gpus}, region {region}, "
                f"{exact_dollars(plan.rate_micros_per_hour)} an hour."
                + (f" {warning}" if warning else ""),
                "warn" if warning else "calm",
            )
        case Job.PauseRequested():
            return "Pause asked for; the trainer saves a checkpoint and exits.", "warn"
        case Job.CancelRequested():
            return "Cancel asked for; the trainer saves and exits.", "warn"
        case Job.JobPaused():
            return f"{PAUSED[event.reason].heading}. The meter is stopped.", "warn"
        case Job.JobResumed():
            rate = exact_dollars(event.rate_micros_per_hour)
            return f"Resumed at {rate} an hour; waiting for GPUs, free of charge.", "calm"
        case Job.JobCancelled():
            return "Cancelled. Metered GPU time is settled.", "warn"
        case _:
            return None


def _ended(event: Job.Event) -> tuple[str, str] | None:
    """How a launch, or the job, came to its end."""
    match event:
        case Job.Registered():
            return f"Registered as {event.model}.", "good"
        case Job.SegmentEnded():
            after = spoken(event.elapsed_seconds)
            if event.failure is None or event.reason is not SegmentEnd.CRASHED:
                return f"{ENDED.get(event.reason, 'The launch ended')}, after {after}.", ""
            return f"{FAILURES[event.failure].sentence} That was after {after}.", "bad"
        case Job.MicroBatchHalved():
            return (
                "A batch did not fit the memory. It is tried again with micro batches of "
                f"{event.micro_batch_size}, over the same steps.",
                "warn",
            )
        case Job.RelaunchPostponed():
            pause = (event.until - event.timestamp).total_seconds()
            return f"It is tried again in {spoken(pause)}; waiting is free of charge.", "warn"
        case Job.JobFailed():
            return f"Failed: {event.error_class}.", "bad"
        case Job.EstimateScored():
            return (
                f"It took {spoken(event.actual_seconds)} and cost {dollars(event.actual_micros)}; "
                f"estimated were {dollars(event.low_micros, Toward.DOWN)} to "
                f"{dollars(event.high_micros, Toward.UP)}.",
                "",
            )
        case _:
            return None


def _deployed(event: Event, model: str) -> tuple[str, str]:
    """What became of a model, or a checkpoint, that shall answer requests."""
    match event:
        case Deployment.DeploymentActivated():
            return f"Deployed as {model}.", "good"
        case Deployment.DeploymentFailed():
            return f"Deploying {model} failed. {event.message}", "bad"
        case Deployment.Undeployed():
            return f"Undeployed: {model} answers no more.", ""
        case _:
            return f"Deploying {model}.", "calm"


def _money(event: Event) -> str:
    """What the meter did."""
    match event:
        case Meter.MinuteMetered():
            seconds = event.to_seconds - event.from_seconds
            amount = exact_dollars(event.amount_micros)
            return f"Minute {event.minute} billed: {spoken(seconds)}, {amount}."
        case Meter.LeaseGranted() | Meter.LeaseExtended():
            return f"The balance holds {spoken(event.paid_seconds)} of this launch."
        case Meter.LeaseRefused():
            return "The balance does not pay for a launch."
        case Meter.MeterClosed():
            return f"Settled to the second: {spoken(event.billed_seconds)} billed."
        case Meter.LostWorkCredited():
            return f"{dollars(event.amount_micros)} credited for work that was lost."
        case _:
            return "The meter of this launch is ready."
