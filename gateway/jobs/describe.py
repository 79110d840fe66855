"""Descriptions of a job's events for the timeline, /v1, the command line and the demo."""

from __future__ import annotations

from typing import Literal, NamedTuple

from domain.billing.meter import Meter
from domain.capacity.gpu_pool import GpuPool
from domain.core.aggregate import Event
from domain.core.durations import spoken
from domain.core.money import Toward, dollars, exact_dollars
from domain.deployments.deployment import Deployment
from domain.jobs import events
from domain.jobs.failures import FAILURES
from domain.jobs.job_request import JobRequest
from domain.jobs.lifecycle import SegmentEnd
from gateway.jobs.states import PAUSED

Level = Literal["info", "warn", "error"]


class Description(NamedTuple):
    """One or two sentences about an event, and its importance."""

    level: Level
    text: str


MINOR = (
    Meter.MeterOpened,
    Meter.LeaseGranted,
    Meter.LeaseExtended,
    Meter.MinuteMetered,
    Meter.MeterClosed,
    events.CheckpointPruned,
)
"""Events that recur every minute. The page hides them by default, and /v1 omits them."""

MINOR_TOPICS = [each.TOPIC for each in MINOR]

ENDED = {
    SegmentEnd.COMPLETED: "The trainer finished",
    SegmentEnd.STOPPED: "The trainer saved a checkpoint and exited",
    SegmentEnd.LEASE_ENDED: "The paid time ended; the trainer saved a checkpoint and exited",
}

STATE_PARTS = {"random": "random states", "position": "position in the data"}
"""Display names of fields of `domain.training.checkpoint.StateHashes`."""

SETTINGS = {"code": "EcoLink's version"}
"""Display names of compute settings."""


def describe(event: Event, model: str | None = None) -> Description:
    """Describe an event of a job, its request, its meters, its GPUs or a deployment of `model`.

    Only the first event of a deployment names the model, so the caller passes the name.
    """
    match event:
        case events.JobEvent():
            return _command(event) or _training(event) or _checkpoint(event) or _ending(event)
        case Deployment.Event():
            return _deployment(event, model)
        case Meter.Event():
            return _meter(event)
        case JobRequest.Event():
            return _request(event)
        case GpuPool.Event():
            return _gpus(event)
        case _:
            return _undescribed(event)


def _undescribed(event: Event) -> Description:
    return Description("info", f"{event.TOPIC}.")


def _command(event: events.JobEvent) -> Description | None:
    """Describe commands of the owner, and pauses because the balance or GPUs ran out."""
    match event:
        case events.JobApproved(plan=plan):
            rate = exact_dollars(plan.rate_micros_per_hour)
            text = (
                f"Approved: {plan.base_model} on {plan.gpu_count} × {plan.gpu_type} in "
                f"{plan.region} for {rate} an hour. Waiting for GPUs, free of charge."
            )
            return Description(
                "warn" if plan.warnings else "info", " ".join([text, *plan.warnings])
            )
        case events.PauseRequested():
            return Description("info", "Pausing: the trainer saves a checkpoint and exits.")
        case events.JobPaused(reason=reason):
            return Description("warn", f"{PAUSED[reason].heading}. The meter is stopped.")
        case events.JobResumed():
            rate = exact_dollars(event.rate_micros_per_hour)
            return Description(
                "info", f"Resumed for {rate} an hour. Waiting for GPUs, free of charge."
            )
        case events.CancelRequested():
            return Description("info", "Cancelling: the trainer saves a checkpoint and exits.")
        case events.JobCancelled():
            return Description(
                "warn", f"Cancelled at step {event.step:,}. The used GPU time is settled."
            )
        case events.AdapterPromoted(model=model):
            return Description("info", f"The last checkpoint was promoted to the model {model}.")
        case events.ModelDeleted(model=model):
            return Description("info", f"The model {model} was deleted.")
        case _:
            return None


def _training(event: events.JobEvent) -> Description | None:
    """Describe the progress of a launch."""
    match event:
        case events.SegmentAllocated(segment=segment):
            return Description("info", f"GPUs are free. Launch {segment} starts.")
        case events.PodStarted():
            return Description("info", "The GPUs are bound. The meter runs from here.")
        case events.TrainingStarted(step=0):
            examples = f"{event.train_examples:,} examples"
            if event.eval_examples:
                examples += f", evaluated on {event.eval_examples:,}"
            return Description(
                "info", f"Training started: {event.total_steps:,} steps over {examples}."
            )
        case events.TrainingStarted():
            return Description(
                "info", f"Training continues after step {event.step:,} of {event.total_steps:,}."
            )
        case events.EvaluationStarted(step=step):
            return Description("info", f"All {step:,} steps are done. Eval set running.")
        case events.EvaluationCompleted():
            return Description(
                "info",
                f"Held-out loss {event.loss_after:.4f}, base model {event.loss_before:.4f}. "
                "Adapter being registered.",
            )
        case events.MicroBatchHalved(micro_batch_size=size):
            return Description(
                "warn",
                "A batch did not fit the memory. The trainer retries with "
                f"micro-batches of {size}; the steps stay the same.",
            )
        case events.RelaunchPostponed():
            pause = (event.until - event.timestamp).total_seconds()
            return Description("warn", f"The next attempt is in {spoken(pause)}. Waiting is free.")
        case _:
            return None


def _checkpoint(event: events.JobEvent) -> Description | None:
    match event:
        case events.CheckpointSaved():
            text = f"Checkpoint saved at step {event.step:,}: train loss {event.train_loss:.4f}"
            if event.eval_loss is not None:
                text += f", held-out loss {event.eval_loss:.4f}"
            return Description("info", f"{text}.")
        case events.CheckpointRejected():
            reason = event.reason.replace("_", " ")
            text = f"The checkpoint of step {event.step:,} is unusable ({reason})."
            if event.kept_seconds is not None:
                text += " The lost time is credited."
            return Description("warn", text)
        case events.OverfittingSuspected():
            return Description(
                "warn",
                f"The model may be overfitting: held-out loss {event.eval_loss:.4f} at step "
                f"{event.step:,}. The best is {event.best_eval_loss:.4f} at step "
                f"{event.best_step:,}, and later checkpoints did not improve on it.",
            )
        case events.ResumeCertified():
            return _resume(event)
        case events.CheckpointPruned():
            text = f"The checkpoint of step {event.step:,} was deleted to keep newer ones."
            return Description("info", text)
        case events.AdapterExpired():
            text = "The saved checkpoints were deleted at the end of their retention."
            return Description("warn", text)
        case _:
            return None


def _resume(event: events.ResumeCertified) -> Description:
    """Describe a resume, and differences between the restored state and the saved one."""
    text = f"Resumed from step {event.step:,}"
    if event.unchecked:
        parts = ", ".join(STATE_PARTS.get(name, name) for name in event.unchecked)
        text += f". Not verified: {parts}."
    else:
        text += " with exactly the saved state."
    if event.differences:
        names = (each.setting for each in event.differences)
        settings = ", ".join(SETTINGS.get(name, name.replace("_", " ")) for name in names)
        text += f" Last digits of losses may differ, because these changed: {settings}."
    return Description("warn" if event.unchecked or event.differences else "info", text)


def _ending(event: events.JobEvent) -> Description:
    """Describe the end of a launch or of the job."""
    match event:
        case events.Registered(model=model):
            return Description("info", f"Registered as {model}.")
        case events.SegmentEnded(reason=SegmentEnd.CRASHED, failure=failure) if failure is not None:
            elapsed = spoken(event.elapsed_seconds)
            return Description("warn", f"{FAILURES[failure].sentence} The launch ran {elapsed}.")
        case events.SegmentEnded(reason=reason):
            elapsed = spoken(event.elapsed_seconds)
            return Description("info", f"{ENDED.get(reason, 'The launch ended')} after {elapsed}.")
        case events.JobFailed(failure=failure):
            return Description("error", f"Failed. {FAILURES[failure].sentence}")
        case events.EstimateScored():
            low = dollars(event.low_micros, Toward.DOWN)
            high = dollars(event.high_micros, Toward.UP)
            return Description(
                "info",
                f"The job took {spoken(event.actual_seconds)} and cost "
                f"{dollars(event.actual_micros)}. The estimate was {low} to {high}.",
            )
        case _:
            return _undescribed(event)


def _deployment(event: Event, model: str | None) -> Description:
    match event:
        case Deployment.DeploymentRequested():
            return Description("info", f"Deploying {event.model}.")
        case Deployment.DeploymentRenewed():
            return Description("info", f"Deploying {model} again.")
        case Deployment.DeploymentActivated():
            return Description("info", f"Deployed as {model}.")
        case Deployment.DeploymentFailed(message=message):
            return Description("error", f"Deploying {model} failed. {message}")
        case Deployment.Undeployed():
            return Description("info", f"Undeployed {model}.")
        case _:
            return _undescribed(event)


def _meter(event: Event) -> Description:
    match event:
        case Meter.MeterOpened():
            return Description("info", "The meter of this launch is open.")
        case Meter.MinuteMetered():
            seconds = spoken(event.to_seconds - event.from_seconds)
            amount = exact_dollars(event.amount_micros)
            return Description("info", f"Minute {event.minute:,} billed: {seconds}, {amount}.")
        case Meter.LeaseGranted() | Meter.LeaseExtended():
            paid = spoken(event.paid_seconds)
            return Description("info", f"{paid} of this launch are paid for.")
        case Meter.LeaseRefused():
            return Description("warn", "The balance is too low for a launch.")
        case Meter.MeterClosed():
            billed = spoken(event.billed_seconds)
            return Description("info", f"Settled to the second: {billed} billed.")
        case Meter.LostWorkCredited():
            return Description("info", f"{dollars(event.amount_micros)} credited for lost work.")
        case _:
            return _undescribed(event)


def _request(event: Event) -> Description:
    match event:
        case JobRequest.JobRequested():
            return Description("info", "Requested. The files are being validated.")
        case JobRequest.JobRequestApproved():
            return Description("info", "The files are valid.")
        case JobRequest.JobRequestRefused():
            return Description("error", f"Refused: {event.message.removesuffix('.')}.")
        case JobRequest.JobRequestCancelled():
            return Description("info", "Cancelled before the approval.")
        case _:
            return _undescribed(event)


def _gpus(event: Event) -> Description:
    match event:
        case GpuPool.GpusRequested():
            return Description("info", f"Queued for {_count(event.count)}.")
        case GpuPool.GpusRequestWithdrawn():
            return Description("info", f"Left the queue for {_count(event.count)}.")
        case GpuPool.GpusAllocated():
            return Description("info", f"Got {_count(event.count)}.")
        case GpuPool.GpusReleased():
            return Description("info", f"Returned {_count(event.count)}.")
        case _:
            return _undescribed(event)


def _count(gpus: int) -> str:
    return f"{gpus} GPU{'' if gpus == 1 else 's'}"
