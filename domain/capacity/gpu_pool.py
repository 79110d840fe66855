"""The GPUs of one type in one region, with a first-in-first-out queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID

from eventsourcing.domain import event

from domain.catalog.machine import Machine
from domain.core.aggregate import Aggregate, Created, Event
from domain.core.identity import PLATFORM_ACCOUNT_ID, gpu_pool_id


@dataclass(frozen=True)
class Claim:
    """A segment's request for GPUs."""

    account_id: UUID
    job_id: UUID
    segment: int
    count: int


class ClaimEvent(Event):
    """Base class of all events of a claim."""

    job_id: UUID
    segment: int
    count: int


class GpuPool(Aggregate):
    """GPUs of one type in one region, with a queue.

    The queue is first in, first out. If the first claim does not fit, it blocks the claims behind
    it.
    """

    TOPIC: ClassVar[str] = "GpuPool"

    class GpuPoolOpened(Created):
        """A pool was opened for a GPU type in a region."""

        region: str
        gpu_type: str

    class CapacityChanged(Event):
        """The number of GPUs in the pool changed."""

        capacity: int

    class MachineMeasured(Event):
        """The speed of the machine that provides a CPU-backed pool was measured."""

        machine: Machine

    class GpusRequested(ClaimEvent):
        """A segment's claim entered the queue."""

    class GpusRequestWithdrawn(ClaimEvent):
        """A claim left the queue without GPUs because its job was paused or cancelled."""

    class GpusAllocated(ClaimEvent):
        """GPUs were allocated to the first claim in the queue."""

    class GpusReleased(ClaimEvent):
        """A segment released its GPUs."""

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
    def __init__(self, account_id: UUID, region: str, gpu_type: str) -> None:
        self.account_id = account_id
        self.region = region
        self.gpu_type = gpu_type
        self.capacity = 0
        # None: the pool has real GPUs, or the machine was not measured yet.
        self.machine: Machine | None = None
        self.held: dict[tuple[UUID, int], Claim] = {}
        self.queue: dict[tuple[UUID, int], Claim] = {}

    @property
    def free(self) -> int:
        """Number of free GPUs.

        It is negative if segments still hold GPUs after the capacity was reduced.
        """
        return self.capacity - sum(claim.count for claim in self.held.values())

    @property
    def next_fitting(self) -> Claim | None:
        """First claim in the queue if enough GPUs are free for it; otherwise None."""
        head = next(iter(self.queue.values()), None)
        return head if head is not None and head.count <= self.free else None

    @property
    def next_hopeless(self) -> Claim | None:
        """First claim that exceeds the pool's capacity, or None.

        The pool can never serve such a claim, and it would block the claims behind it.
        """
        return next((each for each in self.queue.values() if each.count > self.capacity), None)

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
        self.queue[job_id, segment] = Claim(account_id, job_id, segment, count)

    def withdraw(self, job_id: UUID) -> None:
        """Remove a job's claim from the queue, if the queue has one."""
        claim = next((each for each in self.queue.values() if each.job_id == job_id), None)
        if claim is not None:
            self.trigger_event(self.GpusRequestWithdrawn, **vars(claim))

    @event(GpusRequestWithdrawn)
    def _gpus_request_withdrawn(self, job_id: UUID, segment: int) -> None:
        del self.queue[job_id, segment]

    def allocate(self, claim: Claim) -> None:
        """Allocate GPUs to the first claim in the queue."""
        assert claim == self.next_fitting
        self.trigger_event(self.GpusAllocated, **vars(claim))

    @event(GpusAllocated)
    def _gpus_allocated(self, job_id: UUID, segment: int) -> None:
        self.held[job_id, segment] = self.queue.pop((job_id, segment))

    def release(self, job_id: UUID, segment: int) -> None:
        """Release the GPUs that a segment holds, if it holds any."""
        claim = self.held.get((job_id, segment))
        if claim is not None:
            self.trigger_event(self.GpusReleased, **vars(claim))

    @event(GpusReleased)
    def _gpus_released(self, job_id: UUID, segment: int) -> None:
        del self.held[job_id, segment]
