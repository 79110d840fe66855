"""Processes: the services as their own `app` modules wire them, on simulated adapters.

Each process has its own memory, leadership, and connections. `replaced` gives the modules of the
product the simulated time and adapters while a simulation runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from typing import Any, Protocol
from uuid import UUID, uuid5

import psycopg
from eventsourcing.persistence import OperationalError

import infrastructure.bus.consumer
import infrastructure.bus.event_handlers
import infrastructure.bus.service
import infrastructure.postgres.event_recorder
import services.billing.app
import services.billing.ticker
import services.projector.app
import services.projector.following
import services.relay.publisher
import services.scheduler.app
import services.scheduler.capacity
import services.scheduler.control
import services.scheduler.launching
import services.scheduler.pod_reports
import services.scheduler.pod_watch
from domain.core.event_log import EventLog
from infrastructure.bus.event_handlers import HandlerEffect
from infrastructure.settings import Settings
from services.relay.app import POLL_SECONDS
from services.relay.publisher import Publisher
from services.scheduler.launching import LaunchRetries
from services.scheduler.pod_watch import Silences
from tests.simulation.control_plane.bus import Broker, Bus, RelayClient
from tests.simulation.control_plane.cluster import Cluster
from tests.simulation.control_plane.database import SIMULATED, Database, Pool
from tests.simulation.control_plane.files import Files, SimulatedArtifacts
from tests.simulation.control_plane.kernel import (
    InlineActivity,
    InlineAsyncio,
    InlineExecutor,
    InlineTime,
    Kernel,
    Killed,
    Owner,
    Pause,
    Signal,
)
from tests.simulation.control_plane.store import ProcessLog, SharedLog, StoreConnection

START = datetime(2026, 1, 1, tzinfo=UTC)
LOG_ID = UUID("6d5f3f9e-93a2-4a4e-8f54-0d6a3d1d8c11")
NAMES = UUID("0d7b7a64-2f0b-4bd7-9a2f-6f0c7b6f1f0a")

SERVICES = ("relay", "projector", "billing", "scheduler")
GATEWAY = "gateway"

SETTINGS = Settings(
    meter_minute_seconds=20,
    lease_seconds=60,
    lease_extension_seconds=20,
    heartbeat_seconds=10.0,
    trainer_silence_timeout_seconds=40.0,
    grace_seconds=30,
)


class Surroundings(Protocol):
    """Parts of the simulation that a process uses."""

    kernel: Kernel
    shared: SharedLog
    database: Database
    bus: Bus
    files: Files
    cluster: Cluster
    log_grew: Signal

    def service_now(self) -> datetime: ...
    def reach(self, process: Process, point: str, error: type[Exception]) -> None: ...
    def answers(self, service: str, topics: frozenset[str]) -> None: ...
    def handled(self, service: str, position: int) -> None: ...
    def parked(self, service: str, position: int, error: str, *, replay: bool) -> None: ...


class Process(Owner):
    """One process of a service."""

    def __init__(self, world: Surroundings, service: str, epoch: int) -> None:
        super().__init__(f"{service}#{epoch}")
        self.world = world
        self.service = service
        self.leadership = Leadership(service, epoch)
        self.work: Sequence[Callable[[], Awaitable[None]]] = ()
        self.broker = Broker(world.bus, self.reach_bus)
        self.log: ProcessLog | None = None

    def reach_store(self, point: str) -> None:
        self.world.reach(self, point, OperationalError)

    def reach_database(self, point: str) -> None:
        self.world.reach(self, f"database {point}", psycopg.OperationalError)

    def reach_bus(self, point: str) -> None:
        self.world.reach(self, point, TimeoutError)

    def open_log(self, *, leads: bool) -> ProcessLog:
        leadership = self.leadership if leads else None
        connection = StoreConnection(self.world.shared, self.reach_store, leadership)
        self.log = ProcessLog(connection)
        return self.log

    def begin(self) -> None:
        """Start the background work and the consumers."""
        kernel = self.world.kernel
        for each in self.work:
            kernel.spawn(self, each())  # type: ignore[arg-type]
        for durable, handle in self.broker.subscriptions:
            kernel.spawn(self, self.broker.pull(durable, handle, self))


class Leadership:
    """The leadership of a process, which ends it when it is lost."""

    def __init__(self, name: str, epoch: int) -> None:
        self.name, self.epoch = name, epoch

    def lost(self, reason: str) -> None:
        raise Killed(reason)


class SimulatedClock:
    """The clock of the services' machine."""

    def __init__(self, world: Surroundings) -> None:
        self._world = world

    def now(self) -> datetime:
        return self._world.service_now()

    def at(self, moment: datetime) -> datetime:
        return moment


class TrueClock:
    """The clock of a machine that no fault changes."""

    def __init__(self, world: Surroundings) -> None:
        self._world = world

    def now(self) -> datetime:
        return START + timedelta(seconds=self._world.kernel.now)

    def at(self, moment: datetime) -> datetime:
        return moment


async def _idle(*_: object) -> None:
    """Do nothing, in place of work that the simulation does not need."""


def _probed(world: Surroundings) -> type[HandlerEffect]:
    """Return the product's effect, which also records what it handles and parks."""

    class ProbedEffect(HandlerEffect):
        def __init__(self, name: str, log: Any, clock: Any, handlers: Any, connect: Any) -> None:
            super().__init__(name, log, clock, handlers, connect)
            world.answers(name, handlers.topics)

        def _saved(self, item: Any, cause: Any, tracking: Any) -> bool:
            saved = super()._saved(item, cause, tracking)
            world.handled(self.name, item.id)
            return saved

        def _park(self, item: Any, error: str, *, replay: bool) -> None:
            super()._park(item, error, replay=replay)
            world.parked(self.name, item.id, error, replay=replay)

    return ProbedEffect


def start(world: Surroundings, service: str, epoch: int, replace: Replace) -> Process:
    """Start a process of a service as its `app` module does. It has the lead already."""
    process = Process(world, service, epoch)
    with replace(process):
        match service:
            case "billing":
                services.billing.app._bill(SETTINGS, process.leadership)  # type: ignore[arg-type]
            case "scheduler":
                services.scheduler.app._schedule(SETTINGS, process.leadership)  # type: ignore[arg-type]
            case "projector":
                services.projector.app._project(SETTINGS)
            case _:
                process.work = [lambda: _relay(process)]
    process.begin()
    return process


async def _relay(process: Process) -> None:
    """Publish new events, as the relay does after each notification of a commit."""
    log = process.open_log(leads=False)
    client: Any = RelayClient(process.world.bus, process.reach_bus)
    publisher = Publisher(log, client, LOG_ID)
    while True:
        await publisher.publish_new()
        if client.is_behind(process.world.shared.last_id):
            await Pause(POLL_SECONDS)
        else:
            await process.world.log_grew


Replace = Callable[[Process], Any]
"""A function that returns a context in which the services get the adapters of a process."""

Values = list[tuple[Any, str, Any]]


@contextmanager
def _values(values: Values) -> Generator[None]:
    before = [(module, name, getattr(module, name)) for module, name, _ in values]
    for module, name, value in values:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in reversed(before):
            setattr(module, name, value)


@contextmanager
def replaced(world: Surroundings) -> Generator[Replace]:
    """Run the block with simulated time in the modules of the product."""
    asyncio, time = InlineAsyncio(world.kernel), InlineTime(world.kernel)
    numbers = count(1)

    def numbered() -> UUID:
        return uuid5(NAMES, str(next(numbers)))

    values: Values = [
        (module, "asyncio", asyncio)
        for module in (
            infrastructure.bus.consumer,
            infrastructure.bus.service,
            services.projector.following,
            services.relay.publisher,
            services.scheduler.control,
            services.scheduler.pod_reports,
            services.scheduler.pod_watch,
        )
    ]
    values += [
        (module, "activity", InlineActivity)
        for module in (infrastructure.bus.consumer, infrastructure.bus.service)
    ]
    values += [
        (module, "time", time)
        for module in (
            infrastructure.bus.consumer,
            infrastructure.bus.event_handlers,
            infrastructure.postgres.event_recorder,
            services.scheduler.pod_watch,
        )
    ]
    values += [
        (services.billing.ticker, "uuid4", numbered),
        (services.billing.ticker, "ThreadPoolExecutor", InlineExecutor),
        (services.relay.publisher, "record_published", _nothing),
        (services.scheduler.capacity, "to_thread", asyncio.to_thread),
        (services.scheduler.app, "LaunchRetries", partial(LaunchRetries, machine=TrueClock(world))),
        (services.scheduler.pod_watch, "Silences", lambda: Silences(time.monotonic)),
        (services.scheduler.app, "LAUNCH_SECONDS", 2.0),
        (services.scheduler.app, "RELAUNCH_SECONDS", 5.0),
        (services.scheduler.app, "SUSPEND_SECONDS", 5.0),
        (services.scheduler.app, "RETENTION_SECONDS", 20.0),
        (services.scheduler.app, "PREPARE_SECONDS", 1e9),
        (services.scheduler.app, "LOGS_SECONDS", 1e9),
        (services.scheduler.app, "TRIM_SECONDS", 1e9),
        (services.scheduler.app, "REPLAY_SECONDS", 5.0),
        (services.billing.app, "REPLAY_SECONDS", 5.0),
        (services.billing.app, "tick_seconds", lambda settings: 4.0),
    ]
    with _values(values):
        yield lambda process: _values(_adapters(world, process))


def _adapters(world: Surroundings, process: Process) -> Values:
    def serve(broker: object, durables: object, work: Any = ()) -> None:
        del broker, durables
        process.work = list(work)

    def open_log(settings: Settings, **options: Any) -> EventLog:
        del settings
        return process.open_log(leads=options.get("leadership") is not None)

    shared: dict[str, Any] = {
        "open_log": open_log,
        "open_pool": lambda settings, **options: Pool(world.database, process.reach_database),
        "broker_of": lambda settings, name: process.broker,
        "serve": serve,
        "watch_log": _idle,
    }
    of_services = {
        **shared,
        "HandlerEffect": _probed(world),
        "clock_of": lambda settings: SimulatedClock(world),
    }
    values: Values = [
        (module, name, value)
        for module, adapters in (
            (services.billing.app, of_services),
            (
                services.scheduler.app,
                {
                    **of_services,
                    "open_launcher": lambda settings, clock, catalog: world.cluster.read_by(
                        catalog
                    ),
                    "Artifacts": lambda url: SimulatedArtifacts(
                        world.files, lambda point: process.reach_bus(point)
                    ),
                    "delete_old_logs": _nothing,
                    "delete_security_events": _nothing,
                    "trim_caches": _nothing,
                },
            ),
            (
                services.projector.app,
                {
                    **shared,
                    "STORES": {},
                    "register": _nothing,
                },
            ),
            (services.projector.following, {"PROJECTIONS": SIMULATED}),
        )
        for name, value in adapters.items()
    ]
    return values


def _nothing(*_: object, **__: object) -> None:
    """Do nothing, in place of work that the simulation does not need."""
