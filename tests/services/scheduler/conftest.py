"""The scheduler, assembled as in its process, with a launcher in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
from psycopg_pool import ConnectionPool

from domain.catalog.machine import Machine
from domain.core.aggregate import Aggregate, Event
from domain.core.event_log import EventLog
from domain.training.precision import Dtype
from infrastructure.artifacts.store import Artifacts
from infrastructure.bus.consumer import OrderedConsumer
from infrastructure.bus.event_handlers import EventHandlers, HandlerEffect, parked_events
from infrastructure.postgres.store import Connection
from infrastructure.settings import Settings
from infrastructure.training.reports import SegmentSpec
from services.scheduler.capacity import offer_capacity
from services.scheduler.control import ControlChannel
from services.scheduler.due import continuing_jobs
from services.scheduler.handlers import Scheduling
from services.scheduler.launchers.launcher import (
    GpusBusy,
    Launcher,
    LauncherUnavailable,
    LaunchFailed,
    Pod,
    PodName,
    PodPending,
)
from services.scheduler.launching import PodStarter
from services.scheduler.segment_spec import segment_spec
from services.scheduler.segments import Segments
from tests.builders.commands import NOW, FixedClock, command
from tests.builders.history import History
from tests.projecting import project

CPU = ("local", "cpu")


class FakeLauncher(Launcher):
    """A launcher in memory, whose pods a test controls."""

    kept: bytes | None = None
    output = b"first line\nlast line\n"
    refuses = False
    away = False  # like a cluster that does not answer

    def __init__(self) -> None:
        self.offered: Mapping[tuple[str, str], int] = {CPU: 1}
        self.busy_for: set[PodName] = set()
        self.pending: set[PodName] = set()
        self.specs: dict[PodName, SegmentSpec] = {}
        self.stopped: list[PodName] = []
        self.killed: list[PodName] = []
        self.machine_found: Machine | None = None
        self._pods: dict[PodName, Pod] = {}

    @property
    def host(self) -> str:
        return "here"

    @property
    def started(self) -> list[PodName]:
        """All pods in the order of their launch."""
        return list(self.specs)

    def capacity(self, known: Mapping[tuple[str, str], int]) -> Mapping[tuple[str, str], int]:
        self._answer()
        self.known = known
        return self.offered

    def machine(self) -> Machine | None:
        return self.machine_found

    async def measure_machine(self) -> None:
        assert self.machine_found is not None
        self.machine_found = self.machine_found.model_copy(update={"tflops": {Dtype.BF16: 1.0}})

    def launch(self, spec: SegmentSpec) -> Pod:
        self._answer()
        name = PodName(spec.job_id, spec.segment)
        if name in self.pending:
            raise PodPending("0/3 nodes are available.")
        if self.refuses:
            raise LaunchFailed("No machine answers.")
        if name in self.busy_for:
            raise GpusBusy("The segment needs 1 cpu, but 0 of 1 are free.")
        self.specs[name] = spec
        return self._pods.setdefault(name, Pod(name, NOW, alive=True, beat=0))

    def poll(self, name: PodName) -> Pod | None:
        self._answer()
        return self._pods.get(name)

    def _answer(self) -> None:
        if self.away:
            raise LauncherUnavailable("The cluster does not answer.")

    def stop(self, name: PodName) -> None:
        self.stopped.append(name)

    def kill(self, name: PodName) -> None:
        self.killed.append(name)
        self.end(name, -9)

    def pods(self) -> list[PodName]:
        self._answer()
        return sorted(self._pods.keys() | self.pending)

    def log(self, name: PodName, max_bytes: int) -> bytes:
        return self.output[-max_bytes:] if name in self._pods else b""

    def kept_report(self, name: PodName) -> bytes | None:
        return self.kept

    def remove(self, name: PodName) -> None:
        self._pods.pop(name, None)
        self.pending.discard(name)

    def prepare(self) -> None:
        """Do nothing: pods need no preparation."""

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def end(self, name: PodName, exit_code: int | None = None) -> None:
        """End the pod, or lose it without an exit code."""
        self._pods[name] = replace(self._pods[name], alive=False, exit_code=exit_code)

    def beat(self, name: PodName) -> None:
        """Change the pod's beat."""
        pod = self._pods[name]
        self._pods[name] = replace(pod, beat=(pod.beat or 0) + 1)


@dataclass
class Scheduler:
    """The parts of the scheduler's process."""

    log: EventLog
    pool: ConnectionPool[Connection]
    settings: Settings

    def __post_init__(self) -> None:
        self.clock, self.launcher = FixedClock(), FakeLauncher()
        self.control: Any = Mock(spec=ControlChannel)
        self.artifacts = Artifacts(self.settings.artifacts)
        self.pods = PodStarter(self.log, self.launcher, self.settings)
        parts = (self.launcher, self.control)
        self.segments = Segments(self.log, self.clock, self.artifacts, *parts, self.settings)
        continuing = partial(continuing_jobs, self.pool)
        self.scheduling = Scheduling(
            self.log, self.pods, self.control, self.artifacts, self.settings, continuing
        )
        self.handlers = EventHandlers(self.scheduling.handlers)
        connect = self.pool.connection
        effect = HandlerEffect("scheduler", self.log, self.clock, self.handlers, connect)
        self._consumer = OrderedConsumer(effect, self.log)

    def catch_up(self) -> None:
        """Handle the new events, and those that they cause. Fail if a handler fails."""
        while self._consumer.catch_up():
            pass
        with self.pool.connection() as connection:
            assert parked_events(connection) == []

    def handle(self, event: Event) -> Sequence[Aggregate]:
        """Handle one event, and save nothing."""
        with command("unsaved"):
            return self.handlers.handle(event)

    def offer(self, gpus: int) -> None:
        """Change the number of GPUs, and handle the change."""
        self.launcher.offered = {CPU: gpus}
        offer_capacity(self.log, self.clock, self.launcher)
        self.catch_up()

    def project(self) -> None:
        """Update every read model."""
        with self.pool.connection() as connection:
            project(self.log, connection)


@pytest.fixture
def scheduler(log: EventLog, pool: ConnectionPool[Connection], settings: Settings) -> Scheduler:
    return Scheduler(log, pool, settings)


@pytest.fixture
def allocated(history: History, scheduler: Scheduler) -> History:
    """A job with GPUs but without a lease."""
    history.open_account(10_000_000)
    history.open_pool()
    history.approve_job(queued=False)
    scheduler.catch_up()
    return history


@pytest.fixture
def launched(allocated: History, scheduler: Scheduler) -> History:
    """A job with a pod, launched by the scheduler."""
    allocated.grant_lease(1)
    scheduler.catch_up()
    return allocated


@pytest.fixture
def running(history: History, scheduler: Scheduler) -> Segments:
    """Records reports of the first segment, which has a pod."""
    history.run_until("launched")
    scheduler.launcher.launch(segment_spec(history.job, 300, scheduler.settings))
    return scheduler.segments
