"""Audit checks of snapshots, consumer positions and evidence, which a replay cannot rebuild."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from eventsourcing.persistence import StoredEvent
from pydantic import ValidationError

from domain.billing.account import Account, AccountState
from domain.billing.meter import Meter, MeterState
from domain.capacity.gpu_pool import GpuPool, GpuPoolState
from domain.catalog.base_model import BaseModel
from domain.core.aggregate import Event
from domain.core.event_format import NewerEvent
from domain.core.event_log import EventLog
from domain.core.identity import PLATFORM_ACCOUNT_ID, deployment_id
from domain.core.money import exact_dollars
from domain.core.signed_snapshots import (
    ForgedSnapshot,
    OutdatedSnapshot,
    SignedSnapshots,
    SignedState,
)
from domain.datasets.dataset import Dataset
from domain.deployments.deployment import Deployment
from domain.jobs import events
from infrastructure.bus.consumer import Recorded
from infrastructure.postgres.store import Connection, scalar


class DifferenceKind(StrEnum):
    """Kinds of differences that an audit finds."""

    TABLE = "table"
    TRIAL_BALANCE = "trial_balance"
    BALANCE = "balance"
    OVER_RESERVED = "over_reserved"
    MINUTE_GAP = "minute_gap"
    METER_CHARGE = "meter_charge"
    KEY_CHARGES = "key_charges"
    """The account counts other charges against an API key than the meters of the key billed."""
    UNPAIRED = "unpaired"
    SNAPSHOT_FORGED = "snapshot_forged"
    SNAPSHOT_UNREADABLE = "snapshot_unreadable"
    SNAPSHOT_STATE = "snapshot_state"
    SNAPSHOT_AHEAD = "snapshot_ahead"
    POSITION_AHEAD = "position_ahead"
    POSITION_BEHIND = "position_behind"
    NO_METER = "no_meter"
    NOT_SETTLED = "not_settled"
    NOT_QUEUED = "not_queued"
    NOT_DEPLOYED = "not_deployed"
    NAME_KEPT = "name_kept"
    NO_EVIDENCE = "no_evidence"
    UNKNOWN_SEGMENT = "unknown_segment"
    TOO_MUCH_EVIDENCE = "too_much_evidence"
    MEASUREMENT = "measurement"
    ARTIFACT = "artifact"
    ACTOR = "actor"
    """The key that an event names as its actor could not have caused it."""
    NOT_REPLAYED = "not_replayed"


class Difference(NamedTuple):
    """A difference between the log and the data derived from it."""

    kind: DifferenceKind
    text: str


MIGRATION_ROW = "__migration__"
"""Name of a row that the eventsourcing library adds to the positions."""

CLOCK_DRIFT = timedelta(seconds=5)
"""Maximum time by which a trainer's clock may be ahead of the platform's."""

Segment = tuple[UUID, int]


def head_of(live: Connection) -> int:
    """Return the position of the last event that the transaction sees; 0 if it sees none."""
    return scalar(live, "SELECT coalesce(max(notification_id), 0) FROM ecolink_events")


Snapshotted = Account | Meter | GpuPool
"""Aggregates with snapshots."""


class SnapshotCheck:
    """A comparison of each snapshot with the account, meter or GPU pool replayed from the log."""

    def __init__(self, live: Connection, log: EventLog) -> None:
        self._live = live
        self._log = log
        rows = live.execute(
            "SELECT originator_id, originator_version FROM ecolink_snapshots ORDER BY 1, 2"
        ).fetchall()
        self._waiting = {(row["originator_id"], row["originator_version"]) for row in rows}
        self._replayed: dict[UUID, Snapshotted | None] = {id: None for id, _ in self._waiting}
        self.checked = len(rows)
        self.outdated = 0
        """Number of snapshots of earlier versions, which EcoLink does not load."""
        self._found: list[Difference] = []

    def take(self, batch: Sequence[Recorded]) -> None:
        """Apply events to the aggregates that have snapshots."""
        for item in batch:
            if item.originator_id not in self._replayed:
                continue
            aggregate = item.event.mutate(self._replayed[item.originator_id])
            if not isinstance(aggregate, Snapshotted):
                del self._replayed[item.originator_id]  # no such aggregate has snapshots
                continue
            self._replayed[aggregate.id] = aggregate
            if (key := (aggregate.id, aggregate.version)) in self._waiting:
                self._waiting.remove(key)
                self._compare(aggregate)

    def differences(self) -> Iterable[Difference]:
        """Return the differences. Call this after the last batch."""
        yield from self._found
        for id, version in sorted(self._waiting):
            yield Difference(
                DifferenceKind.SNAPSHOT_AHEAD,
                f"the snapshot of {id} at version {version} has events that the log lacks",
            )

    def _compare(self, aggregate: Snapshotted) -> None:
        row = self._row(aggregate)
        kind = {Account: "account", Meter: "meter", GpuPool: "pool"}[type(aggregate)]
        name = f"the snapshot of {kind} {aggregate.id} at version {aggregate.version}"
        genuine = True
        try:
            if isinstance(self._log.snapshots, SignedSnapshots):
                self._log.snapshots.verified(row)
        except ForgedSnapshot as forged:
            genuine = False
            self._report(DifferenceKind.SNAPSHOT_FORGED, f"{name} is forged. {forged}")
        try:
            text = SignedState.model_validate_json(row.state).snapshot.encode()
        except ValidationError:
            self._report(DifferenceKind.SNAPSHOT_UNREADABLE, f"the audit cannot read {name}")
            return
        try:
            stored = self._log.mapper.to_domain_event(
                StoredEvent(row.originator_id, row.originator_version, row.topic, text)
            )
        except (OutdatedSnapshot, NewerEvent, ValidationError):
            self.outdated += genuine
            return
        except (ValueError, LookupError):
            self._report(DifferenceKind.SNAPSHOT_UNREADABLE, f"the audit cannot read {name}")
            return
        match stored, aggregate:
            case Account.Snapshot(state=state), Account() if state != AccountState.of(aggregate):
                has, gives = exact_dollars(state.balance_micros), aggregate.balance_micros
                text = f"{name} has {has}; its events give {exact_dollars(gives)}"
            case Meter.Snapshot(state=state), Meter() if state != MeterState.of(aggregate):
                has, gives = state.billed_seconds, aggregate.billed_seconds
                text = f"{name} has other values than its events: {has} and {gives} s are billed"
            case GpuPool.Snapshot(state=state), GpuPool() if state != GpuPoolState.of(aggregate):
                has, gives = len(state.held), len(aggregate.held)
                text = f"{name} has other claims than its events: {has} and {gives} hold GPUs"
            case _:
                return
        self._report(DifferenceKind.SNAPSHOT_STATE, text)

    def _row(self, aggregate: Snapshotted) -> StoredEvent:
        """Return a stored snapshot. They are read one by one, because that of a pool is large."""
        row = self._live.execute(
            "SELECT topic, state FROM ecolink_snapshots "
            "WHERE originator_id = %s AND originator_version = %s",
            [aggregate.id, aggregate.version],
        ).fetchone()
        assert row is not None
        return StoredEvent(aggregate.id, aggregate.version, row["topic"], bytes(row["state"]))

    def _report(self, kind: DifferenceKind, text: str) -> None:
        self._found.append(Difference(kind, text))


class Due(NamedTuple):
    """An event that a service must still process, and the difference if its position is past it."""

    consumer: str
    id: int
    kind: DifferenceKind
    text: str


class PositionCheck:
    """A comparison of consumer positions with the log and with the events that handlers caused."""

    def __init__(self, live: Connection) -> None:
        tracking = live.execute("SELECT * FROM ecolink_tracking").fetchall()
        folded = live.execute("SELECT name, position FROM projection_positions").fetchall()
        parked = live.execute("SELECT consumer, notification_id FROM parked_events").fetchall()
        named = live.execute("SELECT dataset_id FROM dataset_names").fetchall()
        self._head = head_of(live)
        self._named = {row["dataset_id"] for row in named}
        self._handlers = {
            row["application_name"]: row["notification_id"]
            for row in tracking
            if row["application_name"] != MIGRATION_ROW
        }
        self._projections = {row["name"]: row["position"] for row in folded}
        self._parked = {(row["consumer"], row["notification_id"]) for row in parked}
        self._handled: dict[str, int] = {}
        self._due: dict[tuple[object, ...], Due] = {}
        self._metered: set[Segment] = set()
        self._bases: dict[UUID, str] = {}

    def take(self, batch: Sequence[Recorded]) -> None:
        """Record which events handlers have processed, and which they still have to process."""
        for item in batch:
            if item.id <= self._head:
                self._note_handled(item.event)
            self._note_due(item)

    def _note_handled(self, event: Event) -> None:
        """Record the number of the handled event, which a handler puts into its command ID."""
        name, _, number = event.command_id.partition(":")
        if event.actor == f"service:{name}" and number.isdecimal():
            self._handled[name] = max(self._handled.get(name, 0), int(number))

    def _note_due(self, item: Recorded) -> None:
        due, kind = self._due, DifferenceKind
        match item.event:
            case events.SegmentAllocated(originator_id=job_id, segment=segment):
                text = f"segment {segment} of job {job_id} has no meter"
                due["meter", job_id, segment] = Due("billing", item.id, kind.NO_METER, text)
            case Meter.MeterOpened(job_id=job_id, segment=segment):
                due.pop(("meter", job_id, segment), None)
                self._metered.add((job_id, segment))
            case events.SegmentEnded(originator_id=job_id, segment=segment):
                text = f"segment {segment} of job {job_id} is not settled"
                due["end", job_id, segment] = Due("billing", item.id, kind.NOT_SETTLED, text)
            case Meter.MeterClosed(job_id=job_id, segment=segment):
                due.pop(("end", job_id, segment), None)
            case events.JobApproved(originator_id=job_id):
                text = f"job {job_id} never requested a GPU"
                due["claim", job_id] = Due("scheduler", item.id, kind.NOT_QUEUED, text)
            case BaseModel.BaseModelImported(name=name, originator_id=base_id):
                self._bases[base_id] = name
                key = "base", deployment_id(PLATFORM_ACCOUNT_ID, name)
                text = f"base model {name} was never deployed"
                due[key] = Due("serving", item.id, kind.NOT_DEPLOYED, text)
            case BaseModel.BaseModelDeleted(originator_id=base_id):
                name = self._bases[base_id]
                due.pop(("base", deployment_id(PLATFORM_ACCOUNT_ID, name)), None)
            case Deployment.DeploymentRequested(originator_id=id):
                due.pop(("base", id), None)
            case Dataset.DatasetDeleted(originator_id=dataset_id):
                if dataset_id in self._named:
                    text = f"deleted dataset {dataset_id} still has a name"
                    due["name", dataset_id] = Due("datasets", item.id, kind.NAME_KEPT, text)
            case event:
                due.pop(("claim", getattr(event, "job_id", event.originator_id)), None)

    def differences(self) -> Iterable[Difference]:
        """Return the differences. Call this after the last batch."""
        yield from self._misplaced()
        for key, (consumer, id, kind, text) in self._due.items():
            never_metered = kind is DifferenceKind.NOT_SETTLED and key[1:] not in self._metered
            if self._passed(consumer, id) and not never_metered:
                yield Difference(kind, f"{consumer} has processed notification {id}, but {text}")

    def _misplaced(self) -> Iterable[Difference]:
        positions = self._handlers | {
            f"projection-{name}": position for name, position in self._projections.items()
        }
        for name, position in sorted(positions.items()):
            if position > self._head:
                yield Difference(
                    DifferenceKind.POSITION_AHEAD,
                    f"the position of {name} is {position}, after the end of the log, {self._head}",
                )
        for name, handled in sorted(self._handled.items()):
            if name in self._handlers and handled > self._handlers[name]:
                yield Difference(
                    DifferenceKind.POSITION_BEHIND,
                    f"the position of {name} is {self._handlers[name]}, but {name} has already "
                    f"processed notification {handled}",
                )

    def _passed(self, consumer: str, id: int) -> bool:
        """Return True if a consumer's position is past an event that it has not parked."""
        done = min(self._handlers.get(consumer, 0), self._head)
        return id <= done and (consumer, id) not in self._parked


class EvidenceCheck:
    """A comparison of the evidence of segments with their bills and with the clock."""

    def __init__(self, live: Connection, now: datetime) -> None:
        rows = live.execute("SELECT * FROM segment_evidence ORDER BY 1, 2").fetchall()
        self._head = head_of(live)
        self._now = now
        self._shown = {(row["job_id"], row["segment"]): row["elapsed_seconds"] for row in rows}
        self._billed: dict[Segment, int] = {}
        self._ended: dict[Segment, int] = {}
        self._bound: dict[Segment, datetime] = {}
        self._known: set[Segment] = set()

    def take(self, batch: Sequence[Recorded]) -> None:
        """Record the billed seconds, the starts and the ends of segments."""
        for item in batch:
            match item.event:
                case events.SegmentAllocated(originator_id=job_id, segment=segment):
                    self._known.add((job_id, segment))
                case events.PodStarted(originator_id=job_id, segment=segment, bound_at=bound_at):
                    self._bound[job_id, segment] = bound_at
                case events.SegmentEnded(originator_id=job_id) as ended:
                    ran = ended.elapsed_seconds - ended.grace_seconds
                    self._ended[job_id, ended.segment] = ran
                case Meter.MinuteMetered(job_id=job_id) as minute if item.id <= self._head:
                    self._billed[job_id, minute.segment] = minute.to_seconds
                case _:
                    pass

    def differences(self) -> Iterable[Difference]:
        """Return the differences. Call this after the last batch."""
        for (job_id, segment), billed in self._billed.items():
            shown = int(self._shown.get((job_id, segment), 0))
            if billed > max(shown, self._ended.get((job_id, segment), 0)):
                yield Difference(
                    DifferenceKind.NO_EVIDENCE,
                    f"segment {segment} of job {job_id} is billed for {billed:,} s, but the "
                    f"evidence shows {shown:,} s",
                )
        for (job_id, segment), shown in self._shown.items():
            if (job_id, segment) not in self._known:
                yield Difference(
                    DifferenceKind.UNKNOWN_SEGMENT,
                    f"there is evidence of segment {segment} of job {job_id}, but the log has no "
                    "such segment",
                )
            elif (bound_at := self._bound.get((job_id, segment))) is not None:
                most = (self._now - bound_at + CLOCK_DRIFT).total_seconds()
                if shown > most:
                    yield Difference(
                        DifferenceKind.TOO_MUCH_EVIDENCE,
                        f"the evidence shows {shown:,.0f} s of segment {segment} of job {job_id}, "
                        f"but its GPUs were bound only {most:,.0f} s ago",
                    )
