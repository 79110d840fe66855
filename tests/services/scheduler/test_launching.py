"""Launches that wait for busy GPUs."""

from __future__ import annotations

from datetime import timedelta
from threading import Thread
from uuid import UUID, uuid4

import pytest
from psycopg_pool import ConnectionPool

from domain.billing.meter import Meter
from domain.core.event_log import EventLog
from domain.jobs import events
from domain.jobs.failures import FailureClass
from domain.jobs.job import SegmentEnd
from domain.jobs.lifecycle import JobStatus
from domain.jobs.segments import RunningSegment
from infrastructure.consumer import OrderedConsumer
from infrastructure.reports import SegmentSpec
from infrastructure.store import Connection
from services.scheduler.launchers.launcher import Pod, PodName
from services.scheduler.launching import MOST_TRIES, LaunchRetries, PodStarter
from tests.builders.commands import NOW, FixedClock, command
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.builders.history import History
from tests.projecting import project
from tests.services.scheduler.conftest import NotedControl
from tests.services.scheduler.fake_launcher import FakeLauncher
from tests.services.scheduler.others import approve, job, lease

pytestmark = pytest.mark.usefixtures("no_parking")

NAME = PodName(JOB_ID, 1)


class Looking:
    """Runs the retries as the machine's time passes."""

    def __init__(self, log: EventLog, pool: ConnectionPool[Connection], pods: PodStarter) -> None:
        self._log, self._pool, self._pods = log, pool, pods
        self._machine = FixedClock()
        self.restart()

    def restart(self) -> None:
        """Start with an empty memory, like a new process."""
        self._launches = LaunchRetries(
            self._pods, FixedClock(), self._pool, self._log, self._machine
        )

    def __call__(self, *, seconds: float = 0.0) -> None:
        self._machine.time += timedelta(seconds=seconds)
        with self._pool.connection() as connection:
            project(self._log, connection)
        self._launches.launch_due()


@pytest.fixture
def look(log: EventLog, pool: ConnectionPool[Connection], pods: PodStarter) -> Looking:
    return Looking(log, pool, pods)


@pytest.fixture
def waiting(
    log: EventLog, history: History, scheduler: OrderedConsumer, launcher: FakeLauncher
) -> FakeLauncher:
    """A launcher whose GPUs are busy when the job is leased."""
    history.open_pool(2)
    launcher.gpus = 2
    launcher.busy_for = {NAME}
    launched_or_not(log, scheduler, JOB_ID)
    return launcher


def launched_or_not(log: EventLog, scheduler: OrderedConsumer, job_id: UUID) -> None:
    approve(log, job_id)
    scheduler.catch_up()
    lease(log, job_id)
    scheduler.catch_up()


def test_a_waiting_launch_does_not_block_others(
    log: EventLog, waiting: FakeLauncher, scheduler: OrderedConsumer
) -> None:
    other = uuid4()
    launched_or_not(log, scheduler, other)
    assert waiting.started == [PodName(other, 1)]
    assert job(log).running == RunningSegment(1)


def test_a_waiting_launch_is_billed_from_its_start(
    log: EventLog, waiting: FakeLauncher, look: Looking
) -> None:
    look()
    look(seconds=1)
    assert job(log).pod is None
    waiting.busy_for.clear()
    look(seconds=1)
    look(seconds=1)
    assert waiting.started == [NAME]
    assert job(log).pod == str(NAME)
    (started,) = [each for each in log.events.get(JOB_ID) if isinstance(each, events.PodStarted)]
    assert started.bound_at == NOW, "as the launcher says"
    assert waiting.specs[NAME].paid_seconds == 300


def test_each_retry_waits_longer(waiting: FakeLauncher, look: Looking, log: EventLog) -> None:
    look()
    look(seconds=0.5)  # the first try
    waiting.busy_for.clear()
    look(seconds=0.5)
    assert job(log).pod is None
    look(seconds=0.5)
    assert job(log).pod is not None


def test_a_restarted_scheduler_retries_waiting_launches(
    log: EventLog, waiting: FakeLauncher, look: Looking
) -> None:
    look()
    look.restart()
    waiting.busy_for.clear()
    look()
    look(seconds=1)
    assert job(log).pod == str(NAME)


def test_a_launch_fails_after_the_last_retry(
    log: EventLog, history: History, waiting: FakeLauncher, look: Looking
) -> None:
    for _ in range(MOST_TRIES):
        look(seconds=4)
        assert job(log).running
    look(seconds=4)
    (ended,) = [each for each in log.events.get(JOB_ID) if isinstance(each, events.SegmentEnded)]
    assert (ended.reason, ended.failure) == (SegmentEnd.CRASHED, FailureClass.NODE_LOST)
    assert (ended.elapsed_seconds, ended.error_class) == (0, "LaunchFailed")
    assert history.pool.held == {}


def test_a_job_cancelled_while_waiting_is_not_launched(
    log: EventLog, waiting: FakeLauncher, look: Looking, scheduler: OrderedConsumer
) -> None:
    look()
    with command("cancel"):
        stopped = job(log)
        stopped.cancel(timedelta(days=30))
        log.commit(stopped)
    waiting.busy_for.clear()
    look(seconds=1)
    scheduler.catch_up()
    assert waiting.started == []
    assert job(log).status is JobStatus.CANCELLED


def test_a_cancel_during_a_launch_stops_the_pod(
    log: EventLog,
    waiting: FakeLauncher,
    look: Looking,
    scheduler: OrderedConsumer,
    control: NotedControl,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise the segment would end without a pod, beside an unpaid trainer."""
    look()
    waiting.busy_for.clear()
    handling, launch = Thread(target=scheduler.catch_up), waiting.launch

    def cancelled_meanwhile(spec: SegmentSpec) -> Pod:
        monkeypatch.undo()
        with command("cancel"):
            stopped = job(log)
            stopped.cancel(timedelta(days=30))
            log.commit(stopped)
        handling.start()
        handling.join(timeout=0.5)  # in which it could look for the pod
        return launch(spec)

    monkeypatch.setattr(waiting, "launch", cancelled_meanwhile)
    look(seconds=1)
    handling.join()
    assert job(log).pod == str(NAME)
    assert control.stopped == [(JOB_ID, 1)]


def test_only_leased_segments_without_a_pod_are_launched(
    log: EventLog, history: History, look: Looking, launcher: FakeLauncher
) -> None:
    history.run_until("launched")
    with command("refuse"):
        meter = Meter.open(ACCOUNT_ID, uuid4(), 1, 1)
        meter.refuse_lease()
        log.commit(meter)
    look()
    look(seconds=1)
    assert launcher.started == []


def test_a_failing_launch_does_not_block_others(
    log: EventLog,
    history: History,
    waiting: FakeLauncher,
    look: Looking,
    scheduler: OrderedConsumer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    second = uuid4()
    waiting.busy_for.add(PodName(second, 1))
    launched_or_not(log, scheduler, second)
    look()
    waiting.busy_for.clear()
    launch, broken = waiting.launch, min(JOB_ID, second)

    def breaks(spec: SegmentSpec) -> Pod:
        if spec.job_id == broken:
            raise RuntimeError("unforeseen")
        return launch(spec)

    monkeypatch.setattr(waiting, "launch", breaks)
    look(seconds=1)
    assert waiting.started == [PodName(max(JOB_ID, second), 1)]
    monkeypatch.undo()
    look(seconds=4)
    assert len(waiting.started) == 2
