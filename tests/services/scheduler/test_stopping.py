"""Pause, resume and cancel in the scheduler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from psycopg_pool import ConnectionPool

from domain.billing.meter import Meter
from domain.core.event_log import EventLog
from domain.core.identity import deployment_id
from domain.deployments.deployment import Deployment
from domain.jobs import events
from domain.jobs.job import Job, JobStatus, SegmentEnd
from domain.use_cases.deployments import Deploying
from infrastructure.artifacts import Artifacts, Manifest
from infrastructure.consumer import OrderedConsumer
from infrastructure.reports import Phase
from infrastructure.store import Connection
from projections import DEPLOYMENTS, JOB_DETAIL
from projections.job_detail import expired_adapters
from projections.projection import Projection, ProjectionEffect
from services.scheduler.capacity import offer_capacity
from services.scheduler.due import expire_due
from services.scheduler.handlers import Scheduling
from services.scheduler.launchers.launcher import PodName
from services.scheduler.segments import Segments
from tests.builders.commands import NOW, FixedClock, command
from tests.builders.examples import ACCOUNT_ID, JOB_ID, PLAN, saved_checkpoint
from tests.builders.history import RETENTION, History
from tests.builders.reports import CHECKPOINT, report
from tests.services.scheduler.conftest import NotedControl
from tests.services.scheduler.fake_launcher import FakeLauncher

pytestmark = pytest.mark.usefixtures("no_parking")

HOME = f"jobs/{ACCOUNT_ID}/{JOB_ID}"
ASKS: list[Callable[[History], None]] = [History.pause, History.cancel]


@pytest.fixture
def approved(history: History, scheduler: OrderedConsumer) -> History:
    """A job with GPUs but without a lease."""
    history.open_pool()
    history.approve_job()
    scheduler.catch_up()
    assert history.job.running is not None
    return history


@pytest.fixture
def launched(approved: History, scheduler: OrderedConsumer) -> History:
    """A job with a running trainer."""
    approved.grant_lease(1)
    scheduler.catch_up()
    assert approved.job.pod is not None
    return approved


def last(history: History) -> Any:
    return list(history.log.events.get(history.job_id))[-1]


@pytest.mark.parametrize("ask", ASKS)
def test_a_stop_request_ends_with_the_final_report(
    launched: History,
    scheduler: OrderedConsumer,
    control: NotedControl,
    segments: Segments,
    ask: Callable[[History], None],
) -> None:
    ask(launched)
    scheduler.catch_up()
    assert control.stopped == [(JOB_ID, 1)]
    assert launched.job.running is not None, "until it says that it has saved"
    segments.record(report(9, Phase.TRAINING, checkpoint=CHECKPOINT, outcome=SegmentEnd.STOPPED))
    scheduler.catch_up()
    assert launched.job.status in (JobStatus.PAUSED, JobStatus.CANCELLED)
    assert (launched.pool.held, launched.pool.queue) == ({}, {})
    ended = [e for e in launched.log.events.get(JOB_ID) if isinstance(e, events.SegmentEnded)]
    assert [(e.elapsed_seconds, e.kept_seconds) for e in ended] == [(9, 9)]


@pytest.mark.parametrize("ask", ASKS)
def test_a_segment_without_a_pod_ends_at_no_cost(
    approved: History,
    scheduler: OrderedConsumer,
    launcher: FakeLauncher,
    control: NotedControl,
    ask: Callable[[History], None],
) -> None:
    ask(approved)
    scheduler.catch_up()
    assert approved.job.status in (JobStatus.PAUSED, JobStatus.CANCELLED)
    assert (launcher.started, control.stopped) == ([], [])
    assert approved.pool.held == {}


@pytest.mark.parametrize("ask", ASKS)
def test_a_stop_before_the_launch_prevents_it(
    approved: History,
    scheduler: OrderedConsumer,
    launcher: FakeLauncher,
    ask: Callable[[History], None],
) -> None:
    approved.grant_lease(1)
    ask(approved)
    scheduler.catch_up()
    assert launcher.started == []
    assert approved.job.status in (JobStatus.PAUSED, JobStatus.CANCELLED)


@pytest.mark.parametrize("ask", ASKS)
def test_a_stop_during_the_launch_stops_the_pod(
    approved: History,
    scheduler: OrderedConsumer,
    scheduling: Scheduling,
    launcher: FakeLauncher,
    control: NotedControl,
    ask: Callable[[History], None],
) -> None:
    """The pod was launched, but its save lost against the owner's command."""
    approved.grant_lease(1)
    (granted,) = [
        e
        for e in approved.log.events.get(approved.meter(1).id)
        if isinstance(e, Meter.LeaseGranted)
    ]
    with command("never saved"):
        assert scheduling.handle(granted) != []
    ask(approved)
    scheduler.catch_up()
    assert launcher.started == [PodName(JOB_ID, 1)]
    assert approved.job.pod is not None, "its time is accounted for"
    assert control.stopped == [(JOB_ID, 1)]


@pytest.mark.parametrize("ask", ASKS)
def test_a_stopped_job_leaves_the_queue(
    log: EventLog, history: History, scheduler: OrderedConsumer, ask: Callable[[History], None]
) -> None:
    waiting, behind = History(log, job_id=uuid4()), History(log, job_id=uuid4())
    history.open_pool()
    history.approve_job()
    for each in (waiting, behind):
        with command(f"approve {each.job_id}"):
            log.commit(Job.approve(each.job_id, ACCOUNT_ID, history.job.plan))
    scheduler.catch_up()
    with command("ask"):
        job = waiting.job
        job.pause() if ask is History.pause else job.cancel(RETENTION)
        log.commit(job)
    scheduler.catch_up()
    assert [claim.job_id for claim in history.pool.queue.values()] == [behind.job_id]


def test_a_resumed_job_continues_at_the_new_rate(
    launched: History, scheduler: OrderedConsumer, launcher: FakeLauncher
) -> None:
    launched.save_checkpoint(1, 10, 40)
    launched.pause()
    launched.end_segment(1, SegmentEnd.STOPPED, 60)
    scheduler.catch_up()
    assert launched.job.running is None
    launched.resume(rate_micros_per_hour=7_200_000)
    scheduler.catch_up()
    allocated = last(launched)
    assert isinstance(allocated, events.SegmentAllocated)
    assert (allocated.segment, allocated.rate_micros_per_hour) == (2, 7_200_000)
    launched.grant_lease(2)
    scheduler.catch_up()
    (saved,) = launcher.specs[PodName(JOB_ID, 2)].resume_from
    assert (saved.ref, saved.step) == ("checkpoints/1/10", 10)


def test_a_job_paused_and_resumed_at_once_gets_its_gpus(
    log: EventLog, history: History, scheduler: OrderedConsumer, launcher: FakeLauncher
) -> None:
    history.open_pool()
    with command("occupy"):
        log.commit(Job.approve(uuid4(), ACCOUNT_ID, PLAN))
    scheduler.catch_up()
    history.approve_job()
    scheduler.catch_up()
    with command("pause"):
        job = history.job
        job.pause()
        log.commit(job)
    history.resume()
    scheduler.catch_up()
    assert [claim.segment for claim in history.pool.queue.values()] == [1]
    launcher.gpus = 2
    offer_capacity(log, FixedClock(), launcher)
    scheduler.catch_up()
    assert history.job.running is not None


def test_a_late_pause_handler_keeps_a_resumed_jobs_place(
    log: EventLog, history: History, scheduler: OrderedConsumer, scheduling: Scheduling
) -> None:
    """As when a parked event is replayed."""
    history.open_pool()
    with command("occupy"):
        log.commit(Job.approve(uuid4(), ACCOUNT_ID, PLAN))
    scheduler.catch_up()
    history.approve_job()
    history.pause()
    paused = last(history)
    history.resume()
    scheduler.catch_up()
    with command("replay"):
        assert not any(each.pending_events for each in scheduling.handle(paused))
    assert len(history.pool.queue) == 1


def saved_files(artifacts: Artifacts) -> list[str]:
    """Stores files like trainers do. Returns their refs."""
    refs = [
        f"{HOME}/adapter/segment-1/adapter_model.safetensors",
        f"{HOME}/checkpoints/segment-1/step-000010/manifest.json",
        f"{HOME}/checkpoints/segment-1/step-000010/state.pt",
        f"{HOME}/checkpoints/segment-2/step-000020/state.pt",
        f"{HOME}/logs/segment-1.log",
    ]
    for ref in refs:
        artifacts.put(ref, b"content")
    artifacts.put(f"jobs/{ACCOUNT_ID}/{uuid4()}/checkpoints/segment-1/state.pt", b"another's")
    return refs


def look(
    log: EventLog,
    pool: ConnectionPool[Connection],
    clock: FixedClock,
    *projections: Projection,
) -> None:
    """Project the events and run the due expiries."""
    for projection in projections or (JOB_DETAIL,):
        OrderedConsumer(ProjectionEffect(projection, pool.connection), log).catch_up()
    expire_due(log, clock, pool)


def test_a_cancelled_jobs_files_expire_and_its_logs_stay(
    log: EventLog,
    pool: ConnectionPool[Connection],
    launched: History,
    scheduler: OrderedConsumer,
    artifacts: Artifacts,
) -> None:
    refs = saved_files(artifacts)
    launched.save_checkpoint(1, 10, 40)
    launched.cancel()
    launched.end_segment(1, SegmentEnd.STOPPED, 60)
    scheduler.catch_up()
    clock = FixedClock(NOW)
    look(log, pool, clock)
    scheduler.catch_up()
    assert artifacts.list(HOME) == refs
    clock.time = NOW + RETENTION
    look(log, pool, clock)
    look(log, pool, clock)
    scheduler.catch_up()
    assert isinstance(last(launched), events.AdapterExpired)
    assert artifacts.list(HOME) == [refs[-1]]
    assert len(artifacts.list(f"jobs/{ACCOUNT_ID}")) == 2, "another job's files are not ours"


def test_deployed_checkpoints_do_not_expire(
    log: EventLog,
    pool: ConnectionPool[Connection],
    launched: History,
    scheduler: OrderedConsumer,
    artifacts: Artifacts,
) -> None:
    refs = saved_files(artifacts)
    launched.import_base()
    launched.deploy_base()
    launched.save_checkpoint(1, 10, 40)
    launched.cancel()
    launched.end_segment(1, SegmentEnd.STOPPED, 60)
    with command("deploy"):
        model = Deploying(log).deploy_checkpoint(ACCOUNT_ID, JOB_ID, 10).model
    clock = FixedClock(NOW + RETENTION)
    for projections in ((JOB_DETAIL,), (JOB_DETAIL, DEPLOYMENTS)):
        look(log, pool, clock, *projections)
        scheduler.catch_up()
        assert artifacts.list(HOME) == refs
    with command("fail"):
        failed = log.load(Deployment, deployment_id(ACCOUNT_ID, model))
        failed.fail("out_of_memory", "It does not fit.")
        log.commit(failed)
    look(log, pool, clock, JOB_DETAIL, DEPLOYMENTS)
    with pool.connection() as connection:
        assert expired_adapters(connection, clock.now()) == [], "it may be deployed again"
    assert artifacts.list(HOME) == refs
    with command("undeploy"):
        Deploying(log).undeploy(ACCOUNT_ID, model)
    look(log, pool, clock, JOB_DETAIL, DEPLOYMENTS)
    assert isinstance(last(launched), events.AdapterExpired)


def test_a_failing_expiry_does_not_block_others(
    log: EventLog, pool: ConnectionPool[Connection], launched: History
) -> None:
    launched.save_checkpoint(1, 10, 40)
    launched.cancel()
    launched.end_segment(1, SegmentEnd.STOPPED, 60)
    OrderedConsumer(ProjectionEffect(JOB_DETAIL, pool.connection), log).catch_up()
    with pool.connection() as connection:
        connection.execute(
            "CREATE TEMP TABLE copy AS SELECT * FROM job_detail; "
            "UPDATE copy SET job_id = gen_random_uuid(), expires_at = approved_at;"
            "INSERT INTO job_detail SELECT * FROM copy; DROP TABLE copy"
        )
    expire_due(log, FixedClock(NOW + RETENTION), pool)
    assert isinstance(last(launched), events.AdapterExpired)


def test_deleting_twice_is_harmless(
    log: EventLog, launched: History, scheduling: Scheduling, artifacts: Artifacts
) -> None:
    saved_files(artifacts)
    launched.save_checkpoint(1, 10, 40)
    launched.cancel()
    launched.end_segment(1, SegmentEnd.STOPPED, 60)
    launched.expire_adapter()
    expired = last(launched)
    for _ in range(2):
        assert scheduling.handle(expired) == []
    assert artifacts.list(f"{HOME}/checkpoints") == []


def test_a_deleted_model_leaves_no_files(
    log: EventLog, launched: History, scheduling: Scheduling, artifacts: Artifacts
) -> None:
    saved_files(artifacts)
    launched.save_checkpoint(1, 10, 40)
    launched.complete(1)
    with command("delete"):
        Deploying(log).delete_model(ACCOUNT_ID, launched.job_id)
    assert scheduling.handle(last(launched)) == []
    assert artifacts.list(f"{HOME}/checkpoints") == []


def test_promoted_checkpoints_are_kept(
    log: EventLog,
    pool: ConnectionPool[Connection],
    launched: History,
    scheduler: OrderedConsumer,
    artifacts: Artifacts,
) -> None:
    refs = saved_files(artifacts)
    saved = artifacts.add_files("checkpoints/1/10", Manifest(files=()), {"state.pt": b"state"})
    with command("checkpoint"):
        job = launched.job
        job.save_checkpoint(saved_checkpoint(1, 10, 2.5, 40, "checkpoints/1/10", saved.sha256, 5))
        log.commit(job)
    launched.cancel()
    launched.end_segment(1, SegmentEnd.STOPPED, 60)
    launched.promote()
    look(log, pool, FixedClock(NOW + RETENTION))
    scheduler.catch_up()
    assert artifacts.list(HOME) == refs


def test_a_job_cancelled_before_a_checkpoint_leaves_no_files(
    launched: History, scheduler: OrderedConsumer, artifacts: Artifacts
) -> None:
    artifacts.put(f"{HOME}/checkpoints/segment-1/step-000010/state.pt", b"half of a checkpoint")
    launched.cancel()
    launched.end_segment(1, SegmentEnd.STOPPED, 5)
    scheduler.catch_up()
    assert artifacts.list(HOME) == []
