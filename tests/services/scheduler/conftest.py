"""Fixtures of the scheduler: a launcher in memory and a recording control channel."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import pytest
from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from infrastructure.artifacts import Artifacts
from infrastructure.consumer import OrderedConsumer
from infrastructure.event_handlers import HandlerEffect, parked_events
from infrastructure.settings import Settings
from infrastructure.store import Connection
from services.scheduler.handlers import Scheduling
from services.scheduler.launching import PodStarter
from services.scheduler.segment_spec import segment_spec
from services.scheduler.segments import Segments
from tests.builders.commands import FixedClock
from tests.builders.history import History
from tests.services.scheduler.fake_launcher import FakeLauncher


class NotedControl:
    """Records the messages to segments."""

    def __init__(self) -> None:
        self.paid: list[tuple[UUID, int, int]] = []
        self.jwts: list[str] = []
        self.stopped: list[tuple[UUID, int]] = []
        self.answered: list[tuple[UUID, int]] = []
        self.forgotten: list[tuple[UUID, int]] = []

    def pay(self, job_id: UUID, segment: int, paid_seconds: int, jwt: str = "") -> None:
        self.paid.append((job_id, segment, paid_seconds))
        self.jwts.append(jwt)

    def stop(self, job_id: UUID, segment: int) -> None:
        self.stopped.append((job_id, segment))

    def answer(self, job_id: UUID, segment: int) -> None:
        self.answered.append((job_id, segment))

    def forget(self, job_id: UUID, segment: int) -> None:
        self.forgotten.append((job_id, segment))


@pytest.fixture
def history(log: EventLog) -> History:
    return History(log)


@pytest.fixture
def account(history: History) -> None:
    """An account that can pay for the jobs."""
    history.open_account(10_000_000)


@pytest.fixture
def launcher() -> FakeLauncher:
    return FakeLauncher()


@pytest.fixture
def control() -> NotedControl:
    return NotedControl()


@pytest.fixture
def artifacts(settings: Settings) -> Artifacts:
    return Artifacts(settings.artifacts)


@pytest.fixture
def segments(
    log: EventLog,
    artifacts: Artifacts,
    launcher: FakeLauncher,
    control: NotedControl,
    settings: Settings,
) -> Segments:
    return Segments(log, FixedClock(), artifacts, launcher, control, settings)  # type: ignore[arg-type]


@pytest.fixture
def running(
    history: History, launcher: FakeLauncher, segments: Segments, settings: Settings
) -> Segments:
    """Records reports of the first segment, which has a pod."""
    history.run_until("launched")
    launcher.launch(segment_spec(history.job, 300, settings))
    return segments


@pytest.fixture
def pods(log: EventLog, launcher: FakeLauncher, settings: Settings) -> PodStarter:
    return PodStarter(log, launcher, settings)


@pytest.fixture
def scheduling(
    log: EventLog,
    pods: PodStarter,
    launcher: FakeLauncher,
    control: NotedControl,
    artifacts: Artifacts,
    settings: Settings,
) -> Scheduling:
    return Scheduling(log, pods, launcher, control, artifacts, settings)  # type: ignore[arg-type]


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def scheduler(
    account: None,
    log: EventLog,
    clock: FixedClock,
    pool: ConnectionPool[Connection],
    scheduling: Scheduling,
) -> OrderedConsumer:
    """The scheduler's event handlers, as its process runs them."""
    effect = HandlerEffect("scheduler", log, clock, scheduling.handle, pool.connection)
    return OrderedConsumer(effect, log)


@pytest.fixture
def no_parking(pool: ConnectionPool[Connection]) -> Iterator[None]:
    """Fail the test if an event was parked."""
    yield
    with pool.connection() as connection:
        assert parked_events(connection) == []
