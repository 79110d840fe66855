"""An auditor's questions, answered from the event log alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NoReturn
from uuid import UUID

from domain.access.api_key import ApiKey
from domain.billing.meter import Meter
from domain.core.actor import KEY
from domain.core.aggregate import Event
from domain.core.errors import Invalid, NotFound
from domain.core.recorded import Recorded
from domain.deployments.deployment import Deployment
from domain.jobs.events import SegmentAllocated, job_of
from domain.replay.account_state import AccountState
from domain.replay.acting_key import KeyLife, continues, key_problem
from domain.replay.causes import Explanation, explain
from domain.replay.entry import DamagedEvent, Entry
from domain.replay.job_state import JobState, SegmentState, reserved_micros, streams_of
from domain.replay.past import Moment, Past, state_at
from gateway.audit.describe import describe_any
from gateway.audit.schemas import (
    ENVELOPE,
    ActingKey,
    CauseOf,
    ChainStep,
    Folded,
    Logged,
    LoggedEvent,
    MeterStatus,
    PastAccount,
    PastBudget,
    PastCheckpoint,
    PastJob,
    PastKey,
    PastPlan,
    PastSegment,
    Place,
    Reservation,
    UnreadableEvent,
    Why,
)
from gateway.schemas import job_name
from infrastructure.accounts.profiles import key_names
from infrastructure.postgres.log_reader import EventReader, Selection
from infrastructure.postgres.store import Connection

REMEMBERED_DEPLOYMENTS = REMEMBERED_KEYS = 1_000


class Auditor:
    """Answers questions about the past through one database connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._log = EventReader(connection)
        self._life = lru_cache(REMEMBERED_KEYS)(self._find_life)
        self._name_of = lru_cache(REMEMBERED_KEYS)(self._find_name)
        self._first_of_deployment = lru_cache(REMEMBERED_DEPLOYMENTS)(self._find_first)

    def replay(self, selection: Selection) -> Iterator[Logged]:
        """Yield the selected events in log order, in constant memory."""
        return map(self._shown, self._log.select(selection))

    def search(
        self, selection: Selection, limit: int, *, newest_first: bool, beyond: int | None
    ) -> tuple[list[Logged], bool]:
        """Return a page of selected events after position `beyond`, and True if more follow."""
        found = self._log.search(selection, limit + 1, newest_first=newest_first, beyond=beyond)
        return self._all_shown(found[:limit]), len(found) > limit

    def event(self, position: int) -> Logged:
        """Return an event. Raise NotFound."""
        entry = self._log.at(position)
        if entry is None:
            raise NotFound(f"The log has no event {position}. It ends at {self._log.head()}.")
        return self._shown(entry)

    def job(self, job_id: UUID, moment: Moment) -> PastJob:
        """Return a job as of a moment. Raise NotFound, or Invalid for an event after the end."""
        self._require(moment)
        entries = self._log.of_streams(self._streams_of(job_id))
        past = state_at(JobState(), entries, moment)
        if past.state.job is None and past.state.request is None:
            _refuse("job", job_name(job_id), past)
        return _past_job(job_id, past)

    def positions(self, job_id: UUID) -> list[int]:
        """Return the positions of the events that a job's state comes from, in log order."""
        return self._log.positions(self._streams_of(job_id))

    def account(self, account_id: UUID, moment: Moment) -> PastAccount:
        """Return an account as of a moment. Raise the same errors as `job`."""
        self._require(moment)
        entries = self._log.select(Selection(account_id=account_id))
        past = state_at(AccountState(), entries, moment)
        if past.state.account is None:
            _refuse("account", str(account_id), past)
        return _past_account(account_id, past)

    def why(self, reference: str, limit: int | None = None) -> Why:
        """Return the causes and effects of an event, named by its notification ID or its ID.

        `limit` is the number of causes and of effects, as in `explain`. Raise NotFound if the log
        does not have it, and Invalid if it is damaged.
        """
        entry = self._log.at(int(reference)) if reference.isdecimal() else None
        entry = entry or self._log.named(reference)
        if entry is None:
            raise NotFound(
                f"The log has no event {reference!r}. Enter a notification ID such as 1742, or an "
                "event's ID, `<originator ID>:<version>`. See `ecolink audit replay`."
            )
        if isinstance(entry, DamagedEvent):
            raise Invalid(f"Event {entry.id} ({entry.topic}) is damaged: {entry.problem}.")
        return self._why(explain(entry, self._log, limit))

    def _streams_of(self, job_id: UUID) -> list[UUID]:
        launches = self._log.backwards(job_id, [SegmentAllocated.TOPIC], self._log.head() + 1)
        return streams_of(job_id, max(map(_segment, launches), default=0))

    def _require(self, moment: Moment) -> None:
        head = self._log.head()
        if moment.event is not None and moment.event > head:
            raise Invalid(
                f"There is no event {moment.event}. The log ends at event {head}. Enter that or a "
                "lower one."
            )

    def _why(self, found: Explanation) -> Why:
        return Why(
            chain=[
                ChainStep(
                    event=self._shown_event(step.item),
                    causes=[
                        CauseOf(
                            basis=link.basis,
                            id=link.event_id,
                            position=link.id,
                            problem=link.problem,
                        )
                        for link in step.links
                    ],
                    origin=step.origin,
                    followed=step.followed,
                )
                for step in found.steps
            ],
            saved_together=self._all_shown(found.saved_together),
            effects=self._all_shown(found.effects),
            has_all_causes=found.has_all_causes,
            has_all_effects=found.has_all_effects,
        )

    def _all_shown(self, entries: Sequence[Entry]) -> list[Logged]:
        return [self._shown(entry) for entry in entries]

    def _shown(self, entry: Entry) -> Logged:
        if isinstance(entry, DamagedEvent):
            return UnreadableEvent(
                position=entry.id, id=entry.event_id, topic=entry.topic, problem=entry.problem
            )
        return self._shown_event(entry)

    def _shown_event(self, item: Recorded) -> LoggedEvent:
        event = item.event
        deployment = self._deployment_of(event)
        return LoggedEvent(
            position=item.id,
            id=event.event_id,
            topic=event.TOPIC,
            time=event.timestamp,
            actor=event.actor,
            key=self._key_of(event.actor),
            actor_problem=self._actor_problem(item),
            account_id=event.account_id,
            job_id=job_of(deployment or event),
            command_id=event.command_id,
            causation_id=event.causation_id,
            text=describe_any(event, deployment and deployment.model),
            fields=event.model_dump(mode="json", exclude=ENVELOPE),
        )

    def _key_of(self, actor: str) -> ActingKey | None:
        """Return the key of an actor. Only its name is looked up outside of the log."""
        life = self._life(actor) if actor.startswith(KEY) else None
        if life is None:
            return None
        key_id = life.key.originator_id
        return ActingKey(
            id=key_id,
            account_id=life.key.account_id,
            role=life.key.role,
            hint=life.key.hint,
            issued=life.issued,
            name=self._name_of(key_id),
        )

    def _actor_problem(self, item: Recorded) -> str | None:
        """Return the reason why the key of an event's actor could not have caused it."""
        event = item.event
        if not event.actor.startswith(KEY):
            return None
        problem = key_problem(item, self._life(event.actor), event.timestamp)
        if problem is None or event.causation_id is None:
            return problem
        cause = self._log.named(event.causation_id)
        requested = cause.event if isinstance(cause, Recorded) else None
        return None if continues(event, requested) else problem

    def _find_life(self, actor: str) -> KeyLife | None:
        key_id = actor.removeprefix(KEY)
        issued, revoked = self._log.named(f"{key_id}:1"), self._log.named(f"{key_id}:2")
        event = issued.event if isinstance(issued, Recorded) else None
        if issued is None or not isinstance(event, ApiKey.ApiKeyIssued):
            return None
        return KeyLife(issued.id, event, revoked if isinstance(revoked, Recorded) else None)

    def _find_name(self, key_id: UUID) -> str | None:
        return key_names(self._connection, [key_id]).get(key_id)

    def _deployment_of(self, event: Event) -> Deployment.DeploymentRequested | None:
        if isinstance(event, Deployment.DeploymentRequested):
            return event
        if not isinstance(event, Deployment.Event):
            return None
        return self._first_of_deployment(event.originator_id)

    def _find_first(self, deployment_id: UUID) -> Deployment.DeploymentRequested | None:
        first = self._log.named(f"{deployment_id}:1")
        is_known = isinstance(first, Recorded)
        event = first.event if is_known else None
        return event if isinstance(event, Deployment.DeploymentRequested) else None


def _segment(entry: Entry) -> int:
    event = entry.event if isinstance(entry, Recorded) else None
    return event.segment if isinstance(event, SegmentAllocated) else 0


def _refuse(kind: str, name: str, past: Past[Any]) -> NoReturn:
    if past.problem is not None:
        raise NotFound(f"The {kind} {name} cannot be folded. {past.problem}")
    first = past.next
    if isinstance(first, Recorded):
        raise NotFound(
            f"The {kind} {name} does not exist at that moment. Its first event is {first.id}, at "
            f"{first.event.timestamp.isoformat()}. Enter that or a later one."
        )
    raise NotFound(f"The log has no {kind} {name}.")


def _folded(past: Past[Any]) -> Folded:
    assert past.last is not None
    return Folded(
        events=past.events,
        as_of=_place(past.last),
        next=past.next and _place(past.next),
        problem=past.problem,
    )


def _place(entry: Entry) -> Place:
    time = entry.event.timestamp if isinstance(entry, Recorded) else None
    return Place(position=entry.id, time=time)


def _past_job(job_id: UUID, past: Past[JobState]) -> PastJob:
    state, job = past.state, past.state.job
    owner = job or state.request
    assert owner is not None
    return PastJob(
        log=_folded(past),
        job_id=job_id,
        account_id=owner.account_id,
        status=owner.status,
        plan=job
        and PastPlan(
            base_model=job.plan.base_model,
            dataset_id=job.plan.dataset_id,
            dataset_sha256=job.plan.dataset_sha256,
            region=job.plan.region,
            gpu_type=job.plan.gpu_type,
            low_micros=job.estimate.low_micros,
            high_micros=job.estimate.high_micros,
        ),
        rate_micros_per_hour=job.rate_micros_per_hour if job else 0,
        gpu_count=job.gpu_count if job else 0,
        step=job.step if job else 0,
        total_steps=job.total_steps if job else 0,
        running_segment=job.running.number if job and job.running else None,
        stop_requested=job.stop_requested if job else False,
        model=job.model.name if job and job.model else None,
        charged_micros=state.charged_micros,
        credited_micros=state.credited_micros,
        cost_micros=state.charged_micros - state.credited_micros,
        reserved_micros=sum(map(reserved_micros, state.meters)),
        segments=[_past_segment(each) for each in state.segments.values()],
        checkpoints=[
            PastCheckpoint(**each.model_dump(include=set(PastCheckpoint.model_fields)))
            for each in (job.checkpoints if job else ())
        ],
    )


def _past_segment(segment: SegmentState) -> PastSegment:
    meter = segment.meter
    return PastSegment(
        segment=segment.number,
        allocated_at=segment.allocated_at,
        bound_at=segment.bound_at,
        ended_at=segment.ended_at,
        end_reason=segment.ending and segment.ending.reason,
        rate_micros_per_hour=meter and meter.rate_micros_per_hour,
        paid_seconds=meter.paid_seconds if meter else 0,
        billed_seconds=meter.billed_seconds if meter else 0,
        charged_micros=segment.charged_micros,
        credited_micros=segment.credited_micros,
        reserved_micros=reserved_micros(meter) if meter else 0,
        meter=_meter_status(meter),
    )


def _meter_status(meter: Meter | None) -> MeterStatus:
    if meter is None:
        return "none"
    if meter.closed:
        return "closed"
    return "refused" if meter.refused else "open"


def _past_account(account_id: UUID, past: Past[AccountState]) -> PastAccount:
    state, account = past.state, past.state.account
    assert account is not None
    return PastAccount(
        log=_folded(past),
        account_id=account_id,
        role=account.role,
        time_zone=account.time_zone,
        opened_at=account.created_on,
        balance_micros=account.balance_micros,
        reserved_micros=account.reserved_micros,
        available_micros=account.available_micros,
        low=account.low,
        depleted=account.depleted,
        suspension=account.suspension,
        erased=account.erased,
        granted_micros=state.totals.granted,
        topped_up_micros=state.totals.topped_up,
        refunded_micros=state.totals.refunded,
        charged_micros=state.totals.charged,
        reversed_micros=state.totals.reversed,
        budgets=[
            PastBudget(**each.model_dump())
            for each in sorted(account.budgets.values(), key=lambda each: str(each.key_id or ""))
        ],
        reservations=[
            Reservation(
                job_id=meter.job_id,
                segment=meter.segment,
                paid_seconds=meter.paid_seconds,
                billed_seconds=meter.billed_seconds,
                reserved_micros=reserved_micros(meter),
            )
            for meter in state.open_meters
        ],
        keys=[
            PastKey(
                key_id=each.key.id,
                hint=each.key.hint,
                role=each.key.rights.role,
                scopes=list(each.key.rights.scopes),
                expires_at=each.key.rights.expires_at,
                issued_at=each.issued_at,
                revoked_at=each.revoked_at,
            )
            for each in state.keys.values()
        ],
    )
