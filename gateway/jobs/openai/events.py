"""A job's events and checkpoints under /v1."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field, JsonValue

from domain.core.errors import Invalid
from domain.jobs.job import Job
from domain.training.checkpoint import checkpoint_model
from gateway.backend import BackendOf
from gateway.http.openai_paging import AfterOf, LimitOf, Page, page_from
from gateway.http.openai_vocabulary import job_of
from gateway.http.operations import OpenAIOperation
from gateway.http.permissions import MayRead
from gateway.jobs.describe import MINOR_TOPICS, Description, Level
from gateway.jobs.service import describe_rows, own_job
from gateway.schemas import ResponseModel, job_name
from infrastructure.training.measurements import evaluations_of
from projections.job_entries import EntryKey, EntryKind, entries_of
from projections.job_timeline import saved_at
from projections.projection import Row

router = APIRouter(prefix="/fine_tuning/jobs/{job_id}", route_class=OpenAIOperation)

EventType = Literal["message", "metrics"]
Fields = Mapping[str, Any]

LETTERS = {EntryKind.EVENT: "e", EntryKind.STEP: "s", EntryKind.EVALUATION: "v"}
EVENT_ID = re.compile(
    r"ftevent-(?P<job>[0-9a-f]{32})-(?P<kind>[esv])(?P<n>\d{1,9})-(?P<segment>\d{1,9})"
)
CHECKPOINT_ID = re.compile(r"ftckpt-(?P<job>[0-9a-f]{32})-(?P<segment>\d{1,9})-(?P<step>\d{1,9})")


class EventObject(ResponseModel):
    """OpenAI's `fine_tuning.job.event`."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Level
    message: str = Field(examples=["Step 40 of 225: training loss 1.92"])
    type: EventType
    data: dict[str, JsonValue]


class Metrics(ResponseModel):
    """Metrics of a checkpoint. Losses are in nats per trainable token, or per pair with `dpo`.

    Metrics of an evaluation are null if the step was not evaluated.
    """

    step: int = Field(examples=[40])
    train_loss: float = Field(examples=[1.92])
    valid_loss: float | None
    valid_mean_token_accuracy: float | None
    valid_reward_accuracy: float | None = Field(
        default=None,
        description="With `dpo`, share of pairs whose preferred answer has the higher reward.",
    )
    valid_reward_margin: float | None = Field(
        default=None,
        description="With `dpo`, mean reward of preferred answers minus that of rejected ones.",
    )
    full_valid_loss: float | None
    full_valid_mean_token_accuracy: float | None


class CheckpointObject(ResponseModel):
    """OpenAI's `fine_tuning.job.checkpoint`."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: Metrics
    step_number: int


@router.get("/events")
def list_events(
    job_id: str, caller: MayRead, backend: BackendOf, after: AfterOf = None, limit: LimitOf = 20
) -> Page[EventObject]:
    """List a job's events, and the metrics of each step and evaluation, newest first."""
    wanted = job_of(job_id)
    requested = backend.launching.requested(caller.account_id, wanted) is not None
    total_steps = None if requested else own_job(backend, caller, wanted)["total_steps"]
    key = None if after is None else _key(after, wanted)
    with backend.pool.connection() as connection:
        rows = entries_of(connection, wanted, MINOR_TOPICS, key, limit + 1)
    if rows is None:
        raise Invalid(
            f"This job has no event {after}. Pass the ID of one of its events.", field="after"
        )

    def show(entries: Sequence[Row]) -> list[EventObject]:
        events = [each for each in entries if each["event_id"] is not None]
        described = describe_rows(backend, events)
        return [_event(wanted, total_steps, each, described) for each in entries]

    return page_from(rows, lambda entry: _event_id(wanted, entry), limit, show)


def _event_id(job_id: UUID, entry: Row) -> str:
    return (
        f"ftevent-{job_id.hex}-{LETTERS[EntryKind(entry['kind'])]}{entry['n']}-{entry['segment']}"
    )


def _event(
    job_id: UUID, total_steps: int | None, entry: Row, described: Mapping[str, Description]
) -> EventObject:
    if EntryKind(entry["kind"]) is EntryKind.EVENT:
        type_: EventType = "message"
        level, message = described[entry["event_id"]]
        data = {}
    else:
        type_ = "metrics"
        level, fields = "info", entry["fields"]
        losses = (
            ("training loss", "train_loss"),
            ("training reward margin", "train_reward_margin"),
            ("validation loss", "valid_loss"),
            ("validation reward margin", "valid_reward_margin"),
        )
        message = f"Step {entry['n']}/{total_steps}: " + ", ".join(
            f"{name}={fields[of]:.4f}" for name, of in losses if fields.get(of) is not None
        )
        data = {name: value for name, value in fields.items() if value is not None}
        data |= {"step": entry["n"], "total_steps": total_steps}
    return EventObject(
        id=_event_id(job_id, entry),
        created_at=int(entry["happened_at"].timestamp()),
        level=level,
        message=message,
        type=type_,
        data=data,
    )


def _key(event_id: str, job_id: UUID) -> EntryKey:
    match = EVENT_ID.fullmatch(event_id)
    if match is None or match["job"] != job_id.hex:
        raise Invalid(f"This job has no event {event_id}. See its list of events.", field="after")
    kind = next(kind for kind, letter in LETTERS.items() if letter == match["kind"])
    return EntryKey(kind, int(match["n"]), int(match["segment"]))


@router.get("/checkpoints")
def list_checkpoints(
    job_id: str,
    caller: MayRead,
    backend: BackendOf,
    after: AfterOf = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
) -> Page[CheckpointObject]:
    """List the stored checkpoints of a job, newest first.

    You can deploy each checkpoint under its name. `after` may name a checkpoint that has since been
    deleted.
    """
    if backend.launching.requested(caller.account_id, job_of(job_id)) is not None:
        return Page(data=[], first_id=None, last_id=None, has_more=False)
    row = own_job(backend, caller, job_of(job_id))
    model = backend.log.load(Job, row["job_id"]).model_name
    changed_at: datetime = row["changed_at"]  # used until the timeline has the checkpoint
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
    """Parse the ID of a checkpoint into its segment and step. Raise Invalid if it is malformed."""
    match = CHECKPOINT_ID.fullmatch(checkpoint_id)
    if match is None or match["job"] != job_id.hex:
        raise Invalid(
            f"This job has no checkpoint {checkpoint_id}. See its list of checkpoints.",
            field="after",
        )
    return int(match["segment"]), int(match["step"])


def _metrics(saved: Fields, evaluation: Row | None) -> Metrics:
    """Return a checkpoint's metrics. Every evaluation covers all held-out examples."""
    loss = saved["eval_loss"]
    scored = evaluation if evaluation and loss is not None else None
    accuracy, margin = (scored["accuracy"], None) if scored else (None, None)
    if scored and scored["chosen_reward"] is not None:
        margin = scored["chosen_reward"] - scored["rejected_reward"]
    tokens = accuracy if margin is None else None
    return Metrics(
        step=saved["step"],
        train_loss=saved["train_loss"],
        valid_loss=loss,
        valid_mean_token_accuracy=tokens,
        valid_reward_accuracy=None if margin is None else accuracy,
        valid_reward_margin=margin,
        full_valid_loss=loss,
        full_valid_mean_token_accuracy=tokens,
    )
