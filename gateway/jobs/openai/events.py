"""A job's events and checkpoints under /v1."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import JsonValue

from domain.core.errors import Invalid
from domain.jobs.job import Job
from domain.jobs.lifecycle import SegmentEnd
from domain.training.checkpoint import checkpoint_model
from gateway.backend import BackendOf
from gateway.http.access import CallerOf
from gateway.http.openai_paging import AfterOf, LimitOf, Page, page_from
from gateway.http.openai_vocabulary import job_of
from gateway.jobs.schemas import warnings_of_job
from gateway.jobs.service import own_job
from gateway.schemas import Answer, job_name
from infrastructure.measurements import evaluations_of
from projections.job_story import EntryKey, EntryKind, story_of
from projections.job_timeline import saved_at
from projections.projection import Row

router = APIRouter(prefix="/fine_tuning/jobs/{job_id}")

Level = Literal["info", "warn", "error"]
Fields = Mapping[str, Any]

LETTERS = {EntryKind.EVENT: "e", EntryKind.STEP: "s", EntryKind.EVALUATION: "v"}
EVENT_ID = re.compile(
    r"ftevent-(?P<job>[0-9a-f]{32})-(?P<kind>[esv])(?P<n>\d{1,9})-(?P<segment>\d{1,9})"
)
CHECKPOINT_ID = re.compile(r"ftckpt-(?P<job>[0-9a-f]{32})-(?P<segment>\d{1,9})-(?P<step>\d{1,9})")


class EventObject(Answer):
    """OpenAI's `fine_tuning.job.event`."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Level
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, JsonValue]


class Metrics(Answer):
    """Losses are nats per label token; null: not evaluated there."""

    step: int
    train_loss: float
    valid_loss: float | None
    valid_mean_token_accuracy: float | None
    full_valid_loss: float | None
    full_valid_mean_token_accuracy: float | None


class CheckpointObject(Answer):
    """OpenAI's `fine_tuning.job.checkpoint`."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: Metrics
    step_number: int


SENTENCES: Mapping[str, tuple[Level, Callable[[Fields], str]]] = MappingProxyType(
    {
        "JobRequested": ("info", lambda _: "Created the job; validating its files"),
        "JobRequestApproved": ("info", lambda _: "The files are valid; the job is approved"),
        "JobRequestRefused": ("error", lambda it: f"The job failed: {it['message']}"),
        "JobRequestCancelled": ("info", lambda _: "Cancelled before it was approved"),
        "JobApproved": ("info", lambda _: "Created the job; it waits for its GPUs"),
        "PodStarted": ("info", lambda it: f"Launched on its GPUs (launch {it['segment']})"),
        "TrainingStarted": (
            "info",
            lambda it: (
                f"Training from step {it['step']} of {it['total_steps']} on "
                f"{it['train_examples']} examples, {it['eval_examples']} to evaluate on"
            ),
        ),
        "CheckpointSaved": ("info", lambda it: f"Checkpoint created at step {it['step']}"),
        "CheckpointRejected": ("warn", lambda it: f"A checkpoint was damaged: {it['reason']}"),
        "MicroBatchHalved": (
            "warn",
            lambda it: f"Too little memory; micro batches of {it['micro_batch_size']} from now on",
        ),
        "RelaunchPostponed": ("warn", lambda it: f"It is tried again at {it['until']}"),
        "EvaluationStarted": ("info", lambda _: "All steps are done; evaluating"),
        "EvaluationCompleted": (
            "info",
            lambda it: (
                f"Evaluated: validation loss {it['loss_before']:.4f} of the base, "
                f"{it['loss_after']:.4f} of the model"
            ),
        ),
        "Registered": ("info", lambda it: f"New fine-tuned model created: {it['model']}"),
        "SegmentEnded": ("warn", lambda it: f"The trainer failed: {it['failure']}"),
        "PauseRequested": ("info", lambda _: "Pausing: saving a checkpoint"),
        "CancelRequested": ("info", lambda _: "Cancelling: saving a checkpoint"),
        "JobPaused": ("warn", lambda it: f"Paused at step {it['step']} ({it['reason']})"),
        "JobResumed": ("info", lambda _: "Resumed; it waits for its GPUs"),
        "JobFailed": ("error", lambda it: f"The job failed: {it['failure']}"),
        "JobCancelled": ("info", lambda it: f"Cancelled at step {it['step']}"),
        "AdapterPromoted": ("info", lambda it: f"What it had saved is the model {it['model']}"),
        "DeploymentActivated": ("info", lambda it: f"Deployed as {it['model']}"),
        "DeploymentFailed": (
            "warn",
            lambda it: f"Deploying {it['model']} failed: {it['message']}",
        ),
        "Undeployed": ("info", lambda it: f"Undeployed {it['model']}"),
        "ModelDeleted": ("info", lambda it: f"Deleted the model {it['model']}"),
        "AdapterExpired": (
            "warn",
            lambda _: "What it had saved is deleted: its time is over",
        ),
    }
)
"""What a job's owner reads of its events; the others are in the native timeline."""


@router.get("/events")
def list_events(
    job_id: str, caller: CallerOf, backend: BackendOf, after: AfterOf = None, limit: LimitOf = 20
) -> Page[EventObject]:
    """What happened, and the metrics of each step and evaluation; the newest first."""
    wanted = job_of(job_id)
    requested = backend.launching.requested(caller.account_id, wanted) is not None
    row = None if requested else own_job(backend, caller, wanted)
    key = None if after is None else _key(after, wanted)
    with backend.pool.connection() as connection:
        rows = story_of(connection, wanted, list(SENTENCES), key, limit + 1)
    if rows is None:
        raise Invalid(f"no event {after} of this job", field="after")
    return page_from(
        rows,
        lambda entry: _event_id(wanted, entry),
        limit,
        lambda entries: [_event(wanted, row, each) for each in entries],
    )


def _event_id(job_id: UUID, entry: Row) -> str:
    return (
        f"ftevent-{job_id.hex}-{LETTERS[EntryKind(entry['kind'])]}{entry['n']}-{entry['segment']}"
    )


def _event(job_id: UUID, job: Row | None, entry: Row) -> EventObject:
    """An entry of a job's story; of a request there is no row."""
    kind, fields = EntryKind(entry["kind"]), entry["fields"]
    level: Level = "info"
    if kind is EntryKind.EVENT:
        level, sentence = SENTENCES[entry["topic"]]
        if entry["topic"] == Job.SegmentEnded.TOPIC and fields["reason"] != SegmentEnd.CRASHED:
            level, sentence = "info", lambda it: f"Launch {it['segment']} ended: {it['reason']}"
        message, data = sentence(fields), {}
        approved = job if entry["topic"] == Job.JobApproved.TOPIC else None
        if approved is not None and (warnings := warnings_of_job(approved)):
            level, message = "warn", f"{message}. {' '.join(warnings)}"
    else:
        total = None if job is None else job["total_steps"]
        data = {name: value for name, value in fields.items() if value is not None}
        data |= {"step": entry["n"], "total_steps": total}
        message = f"Step {entry['n']}/{total}: " + ", ".join(
            f"{name}={fields[of]:.4f}"
            for name, of in (("training loss", "train_loss"), ("validation loss", "valid_loss"))
            if fields.get(of) is not None
        )
    return EventObject(
        id=_event_id(job_id, entry),
        created_at=int(entry["happened_at"].timestamp()),
        level=level,
        message=message,
        type="message" if kind is EntryKind.EVENT else "metrics",
        data=data,
    )


def _key(event_id: str, job_id: UUID) -> EntryKey:
    """What an event's id names; raises Invalid."""
    match = EVENT_ID.fullmatch(event_id)
    if match is None or match["job"] != job_id.hex:
        raise Invalid(f"no event {event_id} of this job", field="after")
    kind = next(kind for kind, letter in LETTERS.items() if letter == match["kind"])
    return EntryKey(kind, int(match["n"]), int(match["segment"]))


@router.get("/checkpoints")
def list_checkpoints(
    job_id: str,
    caller: CallerOf,
    backend: BackendOf,
    after: AfterOf = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
) -> Page[CheckpointObject]:
    """The checkpoints that exist, the newest first; each can be deployed under its name.

    A page after one that was pruned meanwhile begins where that one was.
    """
    if backend.launching.requested(caller.account_id, job_of(job_id)) is not None:
        return Page(data=[], first_id=None, last_id=None, has_more=False)
    row = own_job(backend, caller, job_of(job_id))
    model = backend.log.load(Job, row["job_id"]).model_name
    changed_at: datetime = row["changed_at"]  # while the timeline does not have it yet
    with backend.pool.connection() as connection:
        times = saved_at(connection, row["job_id"])
        scored = {each["step"]: each for each in evaluations_of(connection, row["job_id"])}

    def show(some: Sequence[Row]) -> list[CheckpointObject]:
        return [
            CheckpointObject(
                id=_checkpoint_id(row["job_id"], each),
                created_at=int((times.get(each["ref"]) or changed_at).timestamp()),
                fine_tuned_model_checkpoint=checkpoint_model(model, each["step"]),
                fine_tuning_job_id=job_name(row["job_id"]),
                metrics=_metrics(each, scored.get(each["step"])),
                step_number=each["step"],
            )
            for each in some
        ]

    newest = row["checkpoints"][::-1]
    if after is not None:
        last = _place(after, row["job_id"])
        newest = [each for each in newest if (each["segment"], each["step"]) < last]
    return page_from(newest, lambda each: _checkpoint_id(row["job_id"], each), limit, show)


def _checkpoint_id(job_id: UUID, saved: Fields) -> str:
    return f"ftckpt-{job_id.hex}-{saved['segment']}-{saved['step']}"


def _place(checkpoint_id: str, job_id: UUID) -> tuple[int, int]:
    """Segment and step of a checkpoint's id; raises Invalid."""
    match = CHECKPOINT_ID.fullmatch(checkpoint_id)
    if match is None or match["job"] != job_id.hex:
        raise Invalid(f"no checkpoint {checkpoint_id} of this job", field="after")
    return int(match["segment"]), int(match["step"])


def _metrics(saved: Fields, evaluation: Row | None) -> Metrics:
    """Every evaluation is of all held-out examples."""
    loss = saved["eval_loss"]
    accuracy = evaluation["accuracy"] if evaluation and loss is not None else None
    return Metrics(
        step=saved["step"],
        train_loss=saved["train_loss"],
        valid_loss=loss,
        valid_mean_token_accuracy=accuracy,
        full_valid_loss=loss,
        full_valid_mean_token_accuracy=accuracy,
    )
