"""Causes of an event, from a charge back to the command of a person.

An event names its cause if a service reacted to one (`causation_id`). Commands of people have no
cause. Timers and trainer reports record none either. For their events, EcoLink's rules name the
earlier event without which they could not have happened: a minute is billed because a pod started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from heapq import heappop, heappush
from itertools import islice
from typing import NamedTuple, Protocol
from uuid import UUID

from domain.billing.account import Account
from domain.billing.meter import Meter, SegmentEvent
from domain.capacity.gpu_pool import ClaimEvent, GpuPool
from domain.core.aggregate import Created, Event
from domain.core.identity import meter_id
from domain.core.recorded import Recorded
from domain.datasets.dataset import Dataset
from domain.deployments.deployment import Deployment
from domain.jobs import events
from domain.jobs.events import job_of
from domain.jobs.job_request import RequestEvent
from domain.jobs.lifecycle import PauseReason
from domain.replay.entry import DamagedEvent, Entry

SERVICE = "service:"
"""Prefix of the actors that are no people."""

NEEDS_GPUS = (
    events.JobApproved,
    events.JobResumed,
    events.SegmentEnded,
    events.RelaunchPostponed,
)
"""Events after which a job needs GPUs."""

STEPS = (
    *NEEDS_GPUS,
    events.SegmentAllocated,
    events.PodStarted,
    events.EvaluationCompleted,
    events.Registered,
    events.PauseRequested,
    events.JobPaused,
    events.CancelRequested,
    events.JobCancelled,
)
"""Events that determine what a job does next."""

STOPS = (events.PauseRequested, events.CancelRequested)
MONEY_IN = (
    *(Account.CreditGranted, Account.ToppedUp),
    *(Account.ChargeReversed, Account.TopUpRestored),
)
SETTLED = (
    *(Account.UsageSettled, Account.BalanceDepleted, Account.BalanceLow),
    Account.BudgetUsed,
)


class LogReader(Protocol):
    """The port to the event log."""

    def named(self, event_id: str) -> Entry | None:
        """Return the event with an ID, `<originator ID>:<version>`, or None."""
        ...

    def backwards(self, stream: UUID, topics: Sequence[str], before: int) -> Iterator[Entry]:
        """Yield the events of a stream before a notification ID with these topics, newest first."""
        ...

    def around(self, id: int) -> Sequence[Entry]:
        """Return the events near a notification ID, in log order, at least those of one save."""
        ...

    def effects(self, cause: Recorded) -> Iterator[Entry]:
        """Yield the events that name an event as their cause, in log order."""
        ...


class Basis(StrEnum):
    """The evidence for a cause."""

    RECORDED = "recorded"  # the event names it
    SAVED_TOGETHER = "saved_together"  # the same command saved both
    RULE = "rule"  # EcoLink's rules require it


class Origin(StrEnum):
    """The reason that an event has no cause."""

    COMMAND = "command"  # a person acted
    SERVICE = "service"  # a service acted on its own, such as at its start
    UNKNOWN = "unknown"  # the log should have a cause, but does not


class Link(NamedTuple):
    """A cause of an event, or the `problem` why it is missing or unusable."""

    basis: Basis
    event_id: str
    id: int | None  # None: the log does not have it
    problem: str | None = None


@dataclass(frozen=True)
class Step:
    """An event in a chain of causes, with its own causes.

    `origin` is set if it has none. `followed` is False if its causes are omitted, because it is
    about another job.
    """

    item: Recorded
    links: tuple[Link, ...]
    origin: Origin | None
    followed: bool = True


@dataclass(frozen=True)
class Explanation:
    """The causes of an event, oldest first, which end with the event itself, and its effects.

    Without `has_all_causes`, earlier causes are omitted. Without `has_all_effects`, later effects.
    """

    steps: tuple[Step, ...]
    saved_together: tuple[Entry, ...]
    effects: tuple[Entry, ...]
    has_all_causes: bool
    has_all_effects: bool


def explain(item: Recorded, log: LogReader, limit: int | None = None) -> Explanation:
    """Return the newest causes of an event and its oldest direct effects, up to `limit` of each."""
    steps, has_all_causes = _causes(item, log, limit)
    effects = list(islice(log.effects(item), None if limit is None else limit + 1))
    return Explanation(
        steps=tuple(steps),
        saved_together=tuple(each for each in _same_save(item, log) if each.id != item.id),
        effects=tuple(effects[:limit]),
        has_all_causes=has_all_causes,
        has_all_effects=limit is None or len(effects) <= limit,
    )


def _causes(item: Recorded, log: LogReader, limit: int | None) -> tuple[list[Step], bool]:
    """Return the newest causes of an event, oldest first, the event, and True if these are all."""
    steps: dict[int, Step] = {}
    items = {item.id: item}
    waiting = [(-item.id, False)]  # the newest event first, and before the same one unfollowed
    while waiting and (limit is None or len(steps) <= limit):
        place, unfollowed = heappop(waiting)
        current = items[-place]
        if current.id in steps and (steps[current.id].followed or unfollowed):
            continue
        if unfollowed:
            steps[current.id] = Step(current, (), None, followed=False)
            continue
        found = _direct_causes(current, log)
        links = tuple(link for link, _ in found)
        steps[current.id] = Step(current, links, None if links else _origin(current.event))
        for _, cause in found:
            if cause is not None:
                items[cause.id] = cause
                jobs = {job_of(cause.event), job_of(current.event)} - {None}
                is_other_job = len(jobs) > 1
                heappush(waiting, (-cause.id, is_other_job))
    has_all = all(-place in steps for place, _ in waiting)
    target = steps.pop(item.id)
    return [*(steps[id] for id in sorted(steps)), target], has_all


def _origin(event: Event) -> Origin:
    if not event.actor.startswith(SERVICE):
        return Origin.COMMAND
    return Origin.UNKNOWN if _rules(event) else Origin.SERVICE


Found = tuple[Link, Recorded | None]


def _direct_causes(item: Recorded, log: LogReader) -> list[Found]:
    event, found = item.event, list[Found]()
    if event.causation_id is not None:
        found.append(_recorded(item, event.causation_id, log))
    known = [cause for _, cause in found]
    if not event.actor.startswith(SERVICE):
        return found
    job_id = job_of(event)
    is_explained = any(cause and job_id in (None, job_of(cause.event)) for cause in known)
    for rule in _rules(event):
        if is_explained and not rule.always:
            continue
        for entry in rule.find(item, log):
            if not any(link.id == entry.id for link, _ in found):
                found.append(_linked(rule.basis, entry))
    return found


def _recorded(item: Recorded, event_id: str, log: LogReader) -> Found:
    cause = log.named(event_id)
    if cause is None:
        text = f"The log has no event {event_id}, which event {item.id} names as its cause."
        return Link(Basis.RECORDED, event_id, None, text), None
    if cause.id >= item.id:
        text = f"Event {item.id} names event {cause.id} as its cause, which is later."
        return Link(Basis.RECORDED, event_id, cause.id, text), None
    return _linked(Basis.RECORDED, cause)


def _linked(basis: Basis, cause: Entry) -> Found:
    if isinstance(cause, DamagedEvent):
        text = f"Event {cause.id} is damaged: {cause.problem}"
        return Link(basis, cause.event_id, cause.id, text), None
    return Link(basis, cause.event.event_id, cause.id), cause


class Rule(NamedTuple):
    """A search for a missing cause or, with `always`, for one beside a recorded cause."""

    find: Callable[[Recorded, LogReader], list[Entry]]
    basis: Basis = Basis.RULE
    always: bool = False


def _rules(event: Event) -> list[Rule]:
    match event:
        case SegmentEvent(job_id=job_id, segment=segment):
            started = _latest(job_id, events.PodStarted, segment=segment)
            opened = _latest(event.originator_id, Meter.MeterOpened)
            if isinstance(event, Created):
                return [Rule(_latest(job_id, events.SegmentAllocated, segment=segment))]
            is_charge = isinstance(event, Meter.MinuteMetered)
            return [Rule(_first_of(started, opened), always=is_charge)]
        case ClaimEvent(job_id=job_id, segment=segment):
            if isinstance(event, GpuPool.GpusReleased):
                return [Rule(_latest(job_id, events.SegmentEnded, segment=segment))]
            if isinstance(event, GpuPool.GpusRequestWithdrawn):
                return [Rule(_latest(job_id, *STEPS))]
            return [Rule(_latest(job_id, *NEEDS_GPUS))]
        case events.JobEvent():
            return _job_rules(event)
        case RequestEvent() | Dataset.Event() if not isinstance(event, Created):
            return [Rule(_first_event)]
        case Deployment.Event() if not isinstance(event, Created):
            requests = Deployment.DeploymentRequested, Deployment.DeploymentRenewed
            return [Rule(_latest(event.originator_id, *requests))]
        case Account.Event() if isinstance(event, (*SETTLED, Account.BalanceRecovered)):
            own = _latest(event.originator_id, *MONEY_IN, *SETTLED)
            if isinstance(event, Account.UsageSettled):
                return [Rule(_meters_saved_with, Basis.SAVED_TOGETHER, always=True)]
            return [Rule(_meters_saved_with, Basis.SAVED_TOGETHER), Rule(own)]
        case _:
            return []


def _job_rules(event: events.JobEvent) -> list[Rule]:
    job_id = event.originator_id
    match event:
        case events.JobApproved():
            return []
        case events.SegmentAllocated():
            return [Rule(_latest(job_id, *NEEDS_GPUS))]
        case events.PodStarted(segment=segment):
            return [Rule(_latest(meter_id(job_id, segment), Meter.LeaseGranted))]
        case (
            events.PauseRequested(reason=PauseReason.SUSPENDED)
            | events.JobPaused(reason=PauseReason.SUSPENDED)
        ):
            suspended = _latest(event.account_id, Account.AccountSuspended)
            if isinstance(event, events.PauseRequested):
                return [Rule(suspended)]
            return [Rule(_latest(job_id, *STEPS)), Rule(suspended, always=True)]
        case events.SegmentEnded(segment=segment):
            started = _latest(job_id, events.PodStarted, events.SegmentAllocated, segment=segment)
            return [Rule(started), Rule(_stop_of_segment)]
        case _:
            return [Rule(_latest(job_id, *STEPS))]


def _latest(
    stream: UUID, *kinds: type[Event], segment: int | None = None
) -> Callable[[Recorded, LogReader], list[Entry]]:
    """Return a search for the last earlier event of a stream with these kinds, and a segment."""

    def find(item: Recorded, log: LogReader) -> list[Entry]:
        for entry in log.backwards(stream, [kind.TOPIC for kind in kinds], item.id):
            if isinstance(entry, DamagedEvent):
                return [entry]
            if segment is None or getattr(entry.event, "segment", None) == segment:
                return [entry]
        return []

    return find


def _first_of(
    *searches: Callable[[Recorded, LogReader], list[Entry]],
) -> Callable[[Recorded, LogReader], list[Entry]]:
    def find(item: Recorded, log: LogReader) -> list[Entry]:
        return next((found for search in searches if (found := search(item, log))), list[Entry]())

    return find


def _stop_of_segment(item: Recorded, log: LogReader) -> list[Entry]:
    topics = [kind.TOPIC for kind in (*STOPS, events.SegmentAllocated)]
    last = next(log.backwards(item.event.originator_id, topics, item.id), None)
    is_stop = isinstance(last, Recorded) and isinstance(last.event, STOPS)
    return [last] if is_stop and last is not None else []


def _first_event(item: Recorded, log: LogReader) -> list[Entry]:
    first = log.named(f"{item.event.originator_id}:1")
    return [] if first is None or first.id >= item.id else [first]


def _meters_saved_with(item: Recorded, log: LogReader) -> list[Entry]:
    """Return an event of each meter in the same save: its last charge, or else its last event."""
    saved = [each for each in _same_save(item, log) if isinstance(each, Recorded)]
    of_meters = [each for each in saved if isinstance(each.event, SegmentEvent)]
    charges = [each for each in of_meters if isinstance(each.event, Meter.MinuteMetered)]
    return list({each.event.originator_id: each for each in (*of_meters, *charges)}.values())


def _same_save(item: Recorded, log: LogReader) -> list[Entry]:
    """Return the events of one save, which are next to each other in the log."""
    near = log.around(item.id)
    at = next(index for index, entry in enumerate(near) if entry.id == item.id)

    def is_same(entry: Entry) -> bool:
        return isinstance(entry, Recorded) and entry.event.command_id == item.event.command_id

    begin, end = at, at + 1
    while begin > 0 and is_same(near[begin - 1]):
        begin -= 1
    while end < len(near) and is_same(near[end]):
        end += 1
    return list(near[begin:end])
