"""The GPUs of one type in one region, with a first-in-first-out queue."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from math import exp
from typing import Any, ClassVar, Self
from uuid import UUID

from eventsourcing.domain import event
from eventsourcing.utils import register_topic
from pydantic import BaseModel, ConfigDict

from domain.catalog.machine import Machine
from domain.core.aggregate import Aggregate, Created, Event
from domain.core.aggregate_snapshot import AggregateSnapshot
from domain.core.identity import PLATFORM_ACCOUNT_ID, gpu_pool_id

MIN_SNAPSHOT_EVENTS = 1000

LOAD_AVERAGE_SECONDS = 60
"""Time constant of the one-minute load average, an exponentially weighted mean."""


@dataclass(frozen=True)
class Claim:
    """A segment's request for GPUs."""

    account_id: UUID
    job_id: UUID
    segment: int
    count: int


ClaimRow = tuple[UUID, UUID, int, int]
"""A claim in a snapshot: account ID, job ID, segment and number of GPUs."""


class GpuPoolState(BaseModel):
    """State of a pool in a snapshot."""

    model_config = ConfigDict(frozen=True)

    account_id: UUID
    created_on: datetime
    modified_on: datetime
    region: str
    gpu_type: str
    capacity: int
    machine: Machine | None
    held: tuple[ClaimRow, ...]
    queue: tuple[ClaimRow, ...]  # the first in the queue first
    mean_jobs: float  # mean number of running segments, at `mean_at`
    mean_at: datetime

    @classmethod
    def of(cls, pool: GpuPool) -> Self:
        """Return the state of a pool."""
        return cls(
            account_id=pool.account_id,
            created_on=pool.created_on,
            modified_on=pool.modified_on,
            region=pool.region,
            gpu_type=pool.gpu_type,
            capacity=pool.capacity,
            machine=pool.machine,
            held=_rows(pool.held.values()),
            queue=_rows(pool.queue.values()),
            mean_jobs=pool.mean_jobs,
            mean_at=pool.mean_at,
        )


def _rows(claims: Iterable[Claim]) -> tuple[ClaimRow, ...]:
    return tuple((each.account_id, each.job_id, each.segment, each.count) for each in claims)


class ClaimEvent(Event):
    """Base class of all events of a claim."""

    job_id: UUID
    segment: int
    count: int


class GpuPool(Aggregate):
    """GPUs of one type in one region, with a queue.

    The queue is first in, first out. If the first claim does not fit, it blocks the claims behind
    it. A pool may have 100,000 claims, so it counts and indexes them: no command reads all claims.
    """

    TOPIC: ClassVar[str] = "GpuPool"
    stays_cached = True

    class Event(Aggregate.Event):
        """Base class of the events of a GPU pool."""

    class GpuPoolOpened(Event, Created):
        """A pool was opened for a GPU type in a region."""

        region: str
        gpu_type: str

    class CapacityChanged(Event):
        """The number of GPUs in the pool changed."""

        capacity: int

    class MachineMeasured(Event):
        """The speed of the machine that provides a CPU-backed pool was measured."""

        machine: Machine

    class GpusRequested(ClaimEvent, Event):
        """A segment's claim entered the queue."""

    class GpusRequestWithdrawn(ClaimEvent, Event):
        """A claim left the queue without GPUs because its job was paused or cancelled."""

    class GpusAllocated(ClaimEvent, Event):
        """GPUs were allocated to the first claim in the queue."""

    class GpusReleased(ClaimEvent, Event):
        """A segment released its GPUs."""

    class Snapshot(AggregateSnapshot):
        """A snapshot of a pool's state."""

        TOPIC: ClassVar[str] = "GpuPoolSnapshot"
        class_version: ClassVar[int] = 2

        state: GpuPoolState

        @staticmethod
        def upcast_v1_v2(stored: dict[str, Any]) -> None:
            """Assume that the segments of a snapshot have run for minutes."""
            state = stored["state"]
            state |= {"mean_jobs": len(state["held"]), "mean_at": state["modified_on"]}

        @classmethod
        def take(cls, aggregate: Any) -> Self:
            """Return a snapshot of a pool."""
            return cls(**cls.header(aggregate), state=GpuPoolState.of(aggregate))

        def mutate(self, _: None) -> GpuPool:
            """Return the pool as of the snapshot."""
            pool, state = self.blank(GpuPool), self.state
            pool._begin(state.account_id, state.region, state.gpu_type, state.mean_at)
            pool.capacity, pool.machine = state.capacity, state.machine
            pool.mean_jobs = state.mean_jobs
            for row in state.held:
                pool._hold(Claim(*row))
            for row in state.queue:
                pool._enqueue(Claim(*row))
            return pool

    @classmethod
    def open(cls, region: str, gpu_type: str) -> GpuPool:
        """Open an empty pool and return it."""
        return cls._create(
            cls.GpuPoolOpened,
            id=gpu_pool_id(region, gpu_type),
            account_id=PLATFORM_ACCOUNT_ID,
            region=region,
            gpu_type=gpu_type,
        )

    @event(GpuPoolOpened)
    def __init__(self, account_id: UUID, region: str, gpu_type: str, timestamp: datetime) -> None:
        self._begin(account_id, region, gpu_type, timestamp)

    def _begin(self, account_id: UUID, region: str, gpu_type: str, at: datetime) -> None:
        self.account_id = account_id
        self.region = region
        self.gpu_type = gpu_type
        self.capacity = 0
        # None: the pool has real GPUs, or the machine was not measured yet.
        self.machine: Machine | None = None
        self.held: dict[tuple[UUID, int], Claim] = {}
        self.held_gpus = 0
        self.mean_jobs, self.mean_at = 0.0, at
        self.queue: dict[tuple[UUID, int], Claim] = {}
        self._queued_segments: dict[UUID, tuple[int, ...]] = {}  # by job
        self._queued_sizes: dict[int, int] = {}  # number of queued claims by number of GPUs

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a copy that shares the claims, which never change."""
        copied = object.__new__(type(self))
        for name, value in vars(self).items():
            shared = value if not isinstance(value, dict | list) else value.copy()  # pyright: ignore
            setattr(copied, name, shared)
        return copied

    def snapshot_events(self) -> int:
        """Return the number of events between two snapshots.

        A snapshot has all claims. With a fixed number of events, the snapshots of a large pool
        would be larger than its events. The number is therefore a quarter to a half of the number
        of claims, and at least MIN_SNAPSHOT_EVENTS. Above this minimum, it is a power of two, so
        that it changes rarely.
        """
        claims = len(self.held) + len(self.queue)
        return max(MIN_SNAPSHOT_EVENTS, 1 << claims.bit_length() >> 2)

    @property
    def free(self) -> int:
        """Number of free GPUs; negative if segments hold more than a reduced capacity."""
        return self.capacity - self.held_gpus

    def mean_running(self, now: datetime) -> float:
        """Return the mean number of running segments, weighted as in the load average.

        Segments that started a moment ago hardly count, and those that just ended still do.
        """
        weight = exp(-max(0.0, (now - self.mean_at).total_seconds()) / LOAD_AVERAGE_SECONDS)
        return len(self.held) + weight * (self.mean_jobs - len(self.held))

    def most_beside(self, count: int, others: Mapping[int, int]) -> int:
        """Return the maximum number of other jobs that run while a job holds `count` GPUs.

        `others` are the numbers of jobs by their numbers of GPUs.
        """
        free, most = max(self.capacity, self.held_gpus) - count, 0
        for size in sorted(others):
            fitting = max(0, min(others[size], free // size))
            free, most = free - fitting * size, most + fitting
        return most

    def _average(self, now: datetime) -> None:
        self.mean_jobs, self.mean_at = self.mean_running(now), now

    def next_fitting(self, skipped: Collection[UUID] = ()) -> Claim | None:
        """Return the first claim, except of `skipped` jobs, if enough GPUs are free for it."""
        left = (each for each in self.queue.values() if each.job_id not in skipped)
        head = next(left, None)
        return head if head is not None and head.count <= self.free else None

    def next_hopeless(self, skipped: Collection[UUID] = ()) -> Claim | None:
        """Return the first claim above the capacity, which would block the ones behind it."""
        if all(count <= self.capacity for count in self._queued_sizes):
            return None
        left = (each for each in self.queue.values() if each.job_id not in skipped)
        return next((each for each in left if each.count > self.capacity), None)

    def change_capacity(self, capacity: int) -> None:
        """Set the number of GPUs. Running segments keep their GPUs."""
        assert capacity >= 0
        if capacity != self.capacity:
            self.trigger_event(self.CapacityChanged, capacity=capacity)

    @event(CapacityChanged)
    def _capacity_changed(self, capacity: int) -> None:
        self.capacity = capacity

    def measure(self, machine: Machine) -> None:
        """Record the machine's speed if it changed."""
        if machine.differs(self.machine):
            self.trigger_event(self.MachineMeasured, machine=machine)

    @event(MachineMeasured)
    def _machine_measured(self, machine: Machine) -> None:
        self.machine = machine

    def request(self, claim: Claim) -> None:
        """Add a claim to the queue unless its segment is already queued or holds GPUs."""
        key = (claim.job_id, claim.segment)
        if key not in self.queue and key not in self.held:
            self.trigger_event(self.GpusRequested, **vars(claim))

    @event(GpusRequested)
    def _gpus_requested(self, account_id: UUID, job_id: UUID, segment: int, count: int) -> None:
        self._enqueue(Claim(account_id, job_id, segment, count))

    def _enqueue(self, claim: Claim) -> None:
        self.queue[claim.job_id, claim.segment] = claim
        segments = self._queued_segments.get(claim.job_id, ())
        self._queued_segments[claim.job_id] = (*segments, claim.segment)
        self._queued_sizes[claim.count] = self._queued_sizes.get(claim.count, 0) + 1

    def _dequeue(self, job_id: UUID, segment: int) -> Claim:
        claim = self.queue.pop((job_id, segment))
        left = tuple(each for each in self._queued_segments.pop(job_id) if each != segment)
        if left:
            self._queued_segments[job_id] = left
        self._queued_sizes[claim.count] -= 1
        if self._queued_sizes[claim.count] == 0:
            del self._queued_sizes[claim.count]
        return claim

    def withdraw(self, job_id: UUID) -> None:
        """Remove a job's claim from the queue, if the queue has one."""
        segments = self._queued_segments.get(job_id)
        if segments is not None:
            claim = self.queue[job_id, segments[0]]
            self.trigger_event(self.GpusRequestWithdrawn, **vars(claim))

    @event(GpusRequestWithdrawn)
    def _gpus_request_withdrawn(self, job_id: UUID, segment: int) -> None:
        self._dequeue(job_id, segment)

    def allocate(self, claim: Claim, skipped: Collection[UUID] = ()) -> None:
        """Allocate GPUs to the first claim in the queue that is not of a `skipped` job."""
        assert claim == self.next_fitting(skipped)
        self.trigger_event(self.GpusAllocated, **vars(claim))

    @event(GpusAllocated)
    def _gpus_allocated(self, job_id: UUID, segment: int, timestamp: datetime) -> None:
        self._average(timestamp)
        self._hold(self._dequeue(job_id, segment))

    def _hold(self, claim: Claim) -> None:
        self.held[claim.job_id, claim.segment] = claim
        self.held_gpus += claim.count

    def release(self, job_id: UUID, segment: int) -> None:
        """Release the GPUs that a segment holds, if it holds any."""
        claim = self.held.get((job_id, segment))
        if claim is not None:
            self.trigger_event(self.GpusReleased, **vars(claim))

    @event(GpusReleased)
    def _gpus_released(self, job_id: UUID, segment: int, timestamp: datetime) -> None:
        self._average(timestamp)
        self.held_gpus -= self.held.pop((job_id, segment)).count


# The library registers the topics of events, but not those of snapshots.
register_topic(GpuPool.Snapshot.TOPIC, GpuPool.Snapshot)
