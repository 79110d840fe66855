"""Descriptions of a job's events for the timeline, /v1, the command line and the demo."""

from __future__ import annotations

from typing import Literal, NamedTuple

from domain.billing.meter import Meter
from domain.capacity.gpu_pool import GpuPool
from domain.core.aggregate import Event
from domain.core.durations import spoken
from domain.core.money import Toward, dollars, exact_dollars
from domain.core.quantities import counted
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
    Meter.SegmentLimitChanged,
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
"""Display names of the fields of `domain.training.checkpoint.StateHashes`."""

SETTINGS = {"code": "EcoLink's version"}
"""Display names of execution settings."""


WARNINGS = (
    events.JobPaused,
    events.JobCancelled,
    events.MicroBatchHalved,
    events.RelaunchPostponed,
    events.CheckpointRejected,
    events.OverfittingSuspected,
    events.AdapterExpired,
    Meter.LeaseRefused,
)

ERRORS = (events.JobFailed, Deployment.DeploymentFailed, JobRequest.JobRequestRefused)


def describe(event: Event, model: str | None = None) -> Description:
    """Return the description of an event of a job, its request, its meters, its GPUs or a model.

    Only the first event of a deployment contains the model, so the caller passes its name.
    """
    match event:
        case events.JobEvent():
            text = _job(event)
        case Deployment.Event():
            text = _deployment(event, model)
        case Meter.Event():
            text = _meter(event)
        case JobRequest.Event():
            text = _request(event)
        case GpuPool.Event():
            text = _gpus(event)
        case _:
            text = None
    return Description(_level(event), text or f"{event.TOPIC}.")


def _level(event: Event) -> Level:
    if isinstance(event, ERRORS):
        return "error"
    match event:
        case events.JobApproved(plan=plan):
            is_warning = bool(plan.warnings)
        case events.ResumeCertified():
            is_warning = bool(event.unchecked or event.differences)
        case events.SegmentEnded(reason=SegmentEnd.CRASHED, failure=failure):
            is_warning = failure is not None
        case events.EvaluationCompleted(lost_best_step=lost):
            is_warning = lost is not None
        case _:
            is_warning = isinstance(event, WARNINGS)
    return "warn" if is_warning else "info"


def _job(event: events.JobEvent) -> str | None:
    match event:
        # Commands, and pauses because the balance or GPUs ran out
        case events.JobApproved(plan=plan):
            model = plan.start.model if plan.start else plan.base_model
            approved = (
                f"Approved: {model} for {exact_dollars(plan.rate_micros_per_hour)} an hour. The "
                "job is queued, free of charge."
            )
            maximum, guarantee = event.max_cost_micros, event.guarantee
            if maximum is not None and (guarantee is None or maximum < guarantee.micros):
                approved += f" It pauses before it costs more than {exact_dollars(maximum)}."
            elif guarantee is not None:
                approved += f" It costs at most {exact_dollars(guarantee.micros)}."
            return " ".join([approved, *plan.warnings])
        case events.MaxCostChanged(max_cost_micros=None):
            return "The maximum cost was removed."
        case events.MaxCostChanged(max_cost_micros=int(maximum)):
            return f"The maximum cost is now {exact_dollars(maximum)}."
        case events.PauseRequested():
            return "Pausing: the trainer saves a checkpoint and exits."
        case events.JobPaused(reason=reason):
            return f"{PAUSED[reason].heading}. Billing is stopped."
        case events.JobResumed():
            rate = exact_dollars(event.rate_micros_per_hour)
            text = f"Resumed for {rate} an hour. The job is queued, free of charge."
            if event.guarantee is not None:
                text += f" It costs at most {exact_dollars(event.guarantee.micros)} in all."
            return text
        case events.CancelRequested():
            return "Cancelling: the trainer saves a checkpoint and exits."
        case events.JobCancelled():
            return f"Cancelled at step {event.step:,}. EcoLink bills the used GPU time."
        case events.AdapterPromoted(model=model):
            return f"You promoted the last checkpoint to the model {model}."
        case events.ModelDeleted(model=model):
            return f"You deleted the model {model}."

        # Training
        case events.SegmentAllocated(segment=segment):
            return f"GPUs are free. Launch {segment:,} starts."
        case events.PodStarted():
            return "The GPUs are bound. Billing starts."
        case events.TrainingStarted(step=0):
            steps = counted(event.total_steps, "step")
            text = f"Training started: {steps} over {counted(event.train_examples, 'example')}"
            if event.eval_examples:
                text += f", with {counted(event.eval_examples, 'example')} for evaluation"
            return f"{text}."
        case events.TrainingStarted():
            return f"Training continues after step {event.step:,} of {event.total_steps:,}."
        case events.EvaluationStarted(step=step):
            return f"Training ended after {counted(step, 'step')}. The evaluation is running."
        case events.TrainingStoppedEarly():
            return (
                f"Training stopped early at step {event.step:,} of {event.planned_steps:,}: "
                f"{counted(event.evaluations, 'evaluation')} in a row did not lower the held-out "
                f"loss by more than the early stopping threshold. It was lowest at step "
                f"{event.lowest_step:,}, with {event.lowest_eval_loss:.4f}. The remaining steps "
                "are not billed."
            )
        case events.EvaluationCompleted(step=int() as step, lost_best_step=int() as lost):
            return (
                f"The checkpoint of the best state, step {lost:,} with a held-out loss of "
                f"{event.lost_best_loss or 0:.4f}, is missing or damaged. EcoLink registers the "
                f"best intact state, that of step {step:,}, with a held-out loss of "
                f"{event.loss_after:.4f}. It was {event.loss_before:.4f} before training."
            )
        case events.EvaluationCompleted(step=int() as step):
            final = event.final_loss
            other = "" if final is None else f" instead of the final state, with {final:.4f}"
            return (
                f"The best state is that of step {step:,}, with a held-out loss of "
                f"{event.loss_after:.4f}. It was {event.loss_before:.4f} before training. EcoLink "
                f"registers it{other}."
            )
        case events.EvaluationCompleted(reward_margin=float(margin), accuracy_after=correct):
            return (
                f"The held-out loss is {event.loss_after:.4f}, and was {event.loss_before:.4f} "
                f"before training. The reward margin is {margin:.4f}, and {correct or 0:.1%} of "
                "the pairs are correct. EcoLink registers the adapter."
            )
        case events.EvaluationCompleted():
            return (
                f"The held-out loss is {event.loss_after:.4f}. The base model's is "
                f"{event.loss_before:.4f}. EcoLink registers the adapter."
            )
        case events.MicroBatchHalved(micro_batch_size=size):
            return (
                "A batch did not fit into memory. The trainer retries with a micro batch size "
                f"of {size:,}. The steps stay the same."
            )
        case events.RelaunchPostponed():
            pause = (event.until - event.timestamp).total_seconds()
            return f"The next attempt is in {spoken(pause)}. Waiting is free of charge."

        # Checkpoints
        case events.CheckpointSaved():
            text = f"Checkpoint saved at step {event.step:,}: train loss {event.train_loss:.4f}"
            if event.eval_loss is not None:
                text += f", held-out loss {event.eval_loss:.4f}"
            return f"{text}."
        case events.CheckpointRejected():
            reason = event.reason.replace("_", " ")
            text = f"The checkpoint of step {event.step:,} is unusable ({reason})."
            return text if event.kept_seconds is None else f"{text} EcoLink credits the lost time."
        case events.OverfittingSuspected():
            return (
                f"The model may be overfitting: the held-out loss is {event.eval_loss:.4f} at "
                f"step {event.step:,}. The best loss is {event.best_eval_loss:.4f} at step "
                f"{event.best_step:,}, and later checkpoints did not improve it."
            )
        case events.ResumeCertified():
            return _resume(event)
        case events.CheckpointPruned():
            return (
                f"EcoLink deleted the checkpoint of step {event.step:,}, which newer checkpoints "
                "replace."
            )
        case events.AdapterExpired():
            return "EcoLink deleted the checkpoints at the end of their retention time."

        # Ends of a segment or of the job
        case events.Registered(model=model):
            return f"Registered as {model}."
        case events.SegmentEnded(reason=SegmentEnd.CRASHED, failure=failure) if failure is not None:
            elapsed = spoken(event.elapsed_seconds)
            return f"{FAILURES[failure].sentence} The launch ran for {elapsed}."
        case events.SegmentEnded(error_class="LaunchFailed", failure=None):
            return "EcoLink could not start the trainer."
        case events.SegmentEnded(reason=reason):
            elapsed = spoken(event.elapsed_seconds)
            return f"{ENDED.get(reason, 'The launch ended')} after {elapsed}."
        case events.JobFailed(failure=failure):
            return f"Failed. {FAILURES[failure].sentence}"
        case events.EstimateScored():
            low = dollars(event.low_micros, Toward.DOWN)
            high = dollars(event.high_micros, Toward.UP)
            return (
                f"The job took {spoken(event.actual_seconds)}, at a price of "
                f"{dollars(event.actual_micros)}. The estimate was {low} to {high}."
            )
        case _:
            return None


def _resume(event: events.ResumeCertified) -> str:
    text = f"Resumed from step {event.step:,}"
    if event.unchecked:
        parts = ", ".join(STATE_PARTS.get(name, name) for name in event.unchecked)
        text += f". EcoLink could not verify these parts of the state: {parts}."
    else:
        text += " with exactly the saved state."
    if event.differences:
        names = (each.setting for each in event.differences)
        settings = ", ".join(SETTINGS.get(name, name.replace("_", " ")) for name in names)
        text += (
            f" The last digits of losses may differ, because these settings changed: {settings}."
        )
    return text


def _deployment(event: Event, model: str | None) -> str | None:
    match event:
        case Deployment.DeploymentRequested():
            return f"Deploying {event.model}."
        case Deployment.DeploymentRenewed():
            return f"Deploying {model} again."
        case Deployment.DeploymentActivated():
            return f"Deployed as {model}."
        case Deployment.DeploymentFailed(message=message):
            return f"Deploying {model} failed. {message}"
        case Deployment.Undeployed():
            return f"Undeployed {model}."
        case _:
            return None


def _meter(event: Event) -> str | None:
    match event:
        case Meter.MeterOpened():
            return "The meter of this launch is open."
        case Meter.MinuteMetered():
            seconds = spoken(event.to_seconds - event.from_seconds)
            if event.covered_seconds:
                return f"Minute {event.minute:,} covered by the price guarantee: {seconds}, $0.00."
            return (
                f"Minute {event.minute:,} billed: {seconds}, {exact_dollars(event.amount_micros)}."
            )
        case Meter.LeaseGranted() | Meter.LeaseExtended():
            return f"The balance covers {spoken(event.paid_seconds)} of this launch."
        case Meter.SegmentLimitChanged(limit_micros=None):
            return "This launch has no maximum cost any more."
        case Meter.SegmentLimitChanged(limit_micros=int(limit)):
            return f"The maximum cost of the job leaves {exact_dollars(limit)} for this launch."
        case Meter.LeaseRefused():
            return "The balance or a spending limit is too low for a launch."
        case Meter.MeterClosed():
            return f"EcoLink billed {spoken(event.billed_seconds)} of this launch, to the second."
        case Meter.LostWorkCredited():
            return f"EcoLink credited {dollars(event.amount_micros)} for lost work."
        case _:
            return None


def _request(event: Event) -> str | None:
    match event:
        case JobRequest.JobRequested():
            return "Requested. EcoLink is validating the files."
        case JobRequest.JobRequestApproved():
            return "The files are valid."
        case JobRequest.JobRequestRefused():
            return f"Refused: {event.message.removesuffix('.')}."
        case JobRequest.JobRequestCancelled():
            return "Cancelled before the approval."
        case _:
            return None


def _gpus(event: Event) -> str | None:
    match event:
        case GpuPool.GpusRequested():
            return f"Queued for {counted(event.count, 'GPU')}."
        case GpuPool.GpusRequestWithdrawn():
            return f"Left the queue for {counted(event.count, 'GPU')}."
        case GpuPool.GpusAllocated():
            return f"Received {counted(event.count, 'GPU')}."
        case GpuPool.GpusReleased():
            return f"Returned {counted(event.count, 'GPU')}."
        case _:
            return None
