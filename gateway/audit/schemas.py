"""Schemas of an auditor's answers. Amounts are in micro-dollars."""

from __future__ import annotations

from datetime import date, datetime
from typing import Literal
from uuid import UUID

from pydantic import JsonValue

from domain.access.role import Role
from domain.billing.budget import BudgetPeriod
from domain.billing.suspension import SuspensionReason
from domain.core.aggregate import Created
from domain.replay.causes import Basis, Origin
from gateway.schemas import JobId, ResponseModel

MeterStatus = Literal["none", "open", "refused", "closed"]

ENVELOPE = set(Created.model_fields)
ID_CHARACTERS = 36


class ActingKey(ResponseModel):
    """The API key that caused an event, as it was issued. Its name is not in the log."""

    id: UUID
    account_id: UUID
    role: Role
    hint: str
    issued: int
    """Position of the event that issued it."""
    name: str | None


class LoggedEvent(ResponseModel):
    """An event with all that the log has of it. `position` is its notification ID."""

    position: int
    id: str
    topic: str
    time: datetime
    actor: str
    key: ActingKey | None
    """The key of the actor, or None if it is not a key that the log has."""
    actor_problem: str | None
    """The reason why the key could not have caused the event. Then someone forged it."""
    account_id: UUID
    job_id: JobId | None
    command_id: str
    causation_id: str | None
    text: str
    fields: dict[str, JsonValue]

    @property
    def actor_text(self) -> str:
        """The actor for people, with the first 8 characters of an ID."""
        doubt = " (invalid)" if self.actor_problem else ""
        if self.key is not None:
            name = f" “{self.key.name}”" if self.key.name else ""
            return f"{self.key.role} key …{self.key.hint}{name}{doubt}"
        kind, separator, id = self.actor.partition(":")
        return f"{kind}{separator}{id[:8] if len(id) == ID_CHARACTERS else id}{doubt}"


class UnreadableEvent(ResponseModel):
    """A damaged event."""

    position: int
    id: str
    topic: str
    problem: str


Logged = LoggedEvent | UnreadableEvent


class Place(ResponseModel):
    """A place in the log. The time of a damaged event is unknown."""

    position: int
    time: datetime | None


class Folded(ResponseModel):
    """The part of the log that a state was folded from."""

    source: Literal["event log"] = "event log"
    """Computed from the log alone, without read models and snapshots."""

    events: int
    as_of: Place
    next: Place | None
    """The first event about the same object that is not in the state."""

    problem: str | None
    """The damaged or contradictory event at which the fold had to stop."""


class PastSegment(ResponseModel):
    """One launch of a job."""

    segment: int
    allocated_at: datetime | None
    bound_at: datetime | None
    ended_at: datetime | None
    end_reason: str | None
    rate_micros_per_hour: int | None
    paid_seconds: int
    billed_seconds: int
    charged_micros: int
    credited_micros: int
    reserved_micros: int
    meter: MeterStatus


class PastCheckpoint(ResponseModel):
    """A checkpoint that was not deleted at that moment."""

    segment: int
    step: int
    train_loss: float
    eval_loss: float | None
    elapsed_seconds: int
    ref: str
    manifest_sha256: str


class PastPlan(ResponseModel):
    """The plan that the owner approved."""

    base_model: str
    dataset_id: UUID
    dataset_sha256: str
    region: str
    gpu_type: str
    low_micros: int
    high_micros: int


class PastJob(ResponseModel):
    """A job as of a moment. `plan` is None before the approval."""

    log: Folded
    job_id: JobId
    account_id: UUID
    status: str
    plan: PastPlan | None
    rate_micros_per_hour: int
    gpu_count: int
    step: int
    total_steps: int
    running_segment: int | None
    stop_requested: bool
    model: str | None
    charged_micros: int
    credited_micros: int
    cost_micros: int
    reserved_micros: int
    segments: list[PastSegment]
    checkpoints: list[PastCheckpoint]


class Reservation(ResponseModel):
    """The part of a balance that a segment's lease reserves."""

    job_id: JobId
    segment: int
    paid_seconds: int
    billed_seconds: int
    reserved_micros: int


class PastKey(ResponseModel):
    """An API key. `hint` is the end of its secret."""

    key_id: UUID
    hint: str
    role: str
    scopes: list[str]
    expires_at: datetime | None
    issued_at: datetime
    revoked_at: datetime | None


class PastBudget(ResponseModel):
    """A budget as of a moment, with the charges of its last period.

    `key_id` is None if the budget limits all jobs. `starts_on` is None for a budget in total.
    """

    period: BudgetPeriod
    key_id: UUID | None
    limit_micros: int
    spent_micros: int
    starts_on: date | None
    warned_percent: int


class PastAccount(ResponseModel):
    """An account as of a moment."""

    log: Folded
    account_id: UUID
    role: str
    time_zone: str
    opened_at: datetime
    balance_micros: int
    reserved_micros: int
    available_micros: int
    low: bool
    depleted: bool
    suspension: SuspensionReason | None
    erased: bool
    granted_micros: int
    topped_up_micros: int
    refunded_micros: int
    charged_micros: int
    reversed_micros: int
    budgets: list[PastBudget]
    reservations: list[Reservation]
    keys: list[PastKey]


class CauseOf(ResponseModel):
    """A cause of an event.

    `problem` states why the cause is missing or unusable. It is None if the cause is valid.
    """

    basis: Basis
    id: str
    position: int | None
    problem: str | None


class ChainStep(ResponseModel):
    """An event in a chain of causes. `followed` is False if its own causes are omitted."""

    event: LoggedEvent
    causes: list[CauseOf]
    origin: Origin | None
    followed: bool


class Why(ResponseModel):
    """The causes of an event, oldest first, which end with the event, and its direct effects.

    Without `has_all_causes`, earlier causes are omitted. Without `has_all_effects`, later effects.
    """

    chain: list[ChainStep]
    saved_together: list[Logged]
    effects: list[Logged]
    has_all_causes: bool
    has_all_effects: bool
