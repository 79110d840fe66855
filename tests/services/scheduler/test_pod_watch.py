"""The pod watch: evidence, lost pods and clean-up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from domain.jobs import events
from domain.jobs.failures import FailureClass
from domain.jobs.job import SegmentEnd
from infrastructure.artifacts import Artifacts
from infrastructure.bus import REPORTS, provision
from infrastructure.consumer import OrderedConsumer
from infrastructure.reports import Phase, PodSeen, Report
from infrastructure.service import broker_of
from infrastructure.settings import Settings
from infrastructure.store import Connection
from projections import OPEN_METERS
from projections.projection import ProjectionEffect
from services.scheduler.launchers.launcher import Pod, PodName
from services.scheduler.pod_reports import PodReports
from services.scheduler.pod_watch import PodWatch
from services.scheduler.segment_spec import segment_spec
from services.scheduler.segments import Segments
from tests.builders.commands import NOW, FixedClock, command
from tests.builders.examples import ACCOUNT_ID, JOB_ID, ending
from tests.builders.history import History
from tests.builders.reports import CHECKPOINT, report
from tests.polling import eventually, eventually_async
from tests.services.scheduler.conftest import NotedControl
from tests.services.scheduler.fake_launcher import FakeLauncher

NAME = PodName(JOB_ID, 1)
SEEN_SUBJECT = f"evidence.{ACCOUNT_ID}.{JOB_ID}.1"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings with frequent polls and no grace."""
    often = {"heartbeat_seconds": 0.02, "grace_seconds": 0, "silence_seconds": 1.0}
    return settings.model_copy(update=often)


@pytest.fixture
def host() -> str | None:
    """The host of the pod."""
    return "here"


@pytest.fixture(autouse=True)
async def launched(
    js: JetStreamContext,
    history: History,
    launcher: FakeLauncher,
    settings: Settings,
    host: str | None,
) -> None:
    """The first segment has a pod without reports."""
    await provision(js, ())
    history.run_until("leased")
    history.start_pod(1, host)
    launcher.launch(segment_spec(history.job, 300, settings))


@pytest.fixture
def watching(
    log: EventLog,
    pool: ConnectionPool[Connection],
    launcher: FakeLauncher,
    segments: Segments,
    settings: Settings,
) -> Any:
    """Runs a watch, ten seconds after the pod was bound."""

    @asynccontextmanager
    async def run() -> AsyncIterator[None]:
        broker = broker_of(settings, "scheduler")
        await broker.start()
        clock = FixedClock(NOW + timedelta(seconds=10))
        reports = PodReports(broker, clock, launcher)
        watch = PodWatch(log, pool, launcher, segments, reports, settings)
        task = asyncio.create_task(watch.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await broker.stop()

    return run


async def say(js: JetStreamContext, message: Report | PodSeen, subject: str = "") -> None:
    await js.publish(subject or message.subject, message.model_dump_json().encode())


async def until(condition: Any) -> Any:
    return await asyncio.to_thread(eventually, condition)


def ends(log: EventLog) -> list[events.SegmentEnded]:
    return [event for event in log.events.get(JOB_ID) if isinstance(event, events.SegmentEnded)]


async def seen(js: JetStreamContext) -> PodSeen | None:
    """The last evidence that the watch published."""
    try:
        message = await js.get_last_msg(REPORTS, SEEN_SUBJECT)
    except NotFoundError:
        return None
    return PodSeen.model_validate_json(message.data or b"")


async def test_a_living_pod_is_evidence_until_its_first_report(
    js: JetStreamContext, segments: Segments, watching: Any
) -> None:
    async with watching():
        evidence = await eventually_async(lambda: seen(js))
        assert evidence is not None
        assert evidence.elapsed_seconds == 10


async def test_a_reporting_trainer_needs_no_evidence(
    js: JetStreamContext,
    launcher: FakeLauncher,
    segments: Segments,
    watching: Any,
    log: EventLog,
) -> None:
    segments.record(report(1, Phase.TRAINING))
    async with watching():
        launcher.end(NAME)  # what is observed next proves that the watch has looked
        await until(lambda: ends(log))
    assert await seen(js) is None


async def test_a_terminated_pod_ends_with_its_last_report(
    js: JetStreamContext, log: EventLog, launcher: FakeLauncher, watching: Any
) -> None:
    await say(js, report(5, Phase.TRAINING, checkpoint=CHECKPOINT, elapsed_seconds=55.5))
    launcher.end(NAME, exit_code=-9)
    async with watching():
        (end,) = await until(lambda: ends(log))
    assert (end.reason, end.error_class) == (SegmentEnd.CRASHED, "TrainerExited(-9)")
    assert (end.elapsed_seconds, end.kept_seconds) == (55, 40), "its checkpoint was heard of"


async def test_an_unsent_report_is_read_from_the_pod(
    js: JetStreamContext, log: EventLog, launcher: FakeLauncher, watching: Any
) -> None:
    await say(js, report(5, Phase.TRAINING, elapsed_seconds=39.0))
    kept = report(
        5,
        Phase.TRAINING,
        checkpoint=CHECKPOINT,
        elapsed_seconds=41.0,
        outcome=SegmentEnd.STOPPED,
    )
    launcher.kept = kept.model_dump_json().encode()
    launcher.end(NAME, exit_code=0)
    async with watching():
        (end,) = await until(lambda: ends(log))
    assert (end.reason, end.elapsed_seconds, end.kept_seconds) == (SegmentEnd.STOPPED, 41, 40)


async def test_a_segment_without_its_pod_is_lost(
    js: JetStreamContext,
    log: EventLog,
    pool: ConnectionPool[Connection],
    launcher: FakeLauncher,
    watching: Any,
) -> None:
    OrderedConsumer(ProjectionEffect(OPEN_METERS, pool.connection), log).catch_up()
    launcher.remove(NAME)
    async with watching():
        (end,) = await until(lambda: ends(log))
    assert (end.reason, end.error_class) == (SegmentEnd.CRASHED, "ProcessLost")


async def test_a_pod_without_reports_ends_with_the_schedulers_evidence(
    js: JetStreamContext, log: EventLog, launcher: FakeLauncher, watching: Any
) -> None:
    await say(js, PodSeen(account_id=ACCOUNT_ID, job_id=JOB_ID, segment=1, elapsed_seconds=7.9))
    launcher.end(NAME)
    async with watching():
        (end,) = await until(lambda: ends(log))
    assert (end.error_class, end.elapsed_seconds) == ("ProcessLost", 7)


async def test_an_overrun_uses_the_times_of_the_last_report(
    js: JetStreamContext, log: EventLog, launcher: FakeLauncher, watching: Any
) -> None:
    await say(js, report(5, Phase.TRAINING, elapsed_seconds=318.4, grace_seconds=18.4))
    launcher.end(NAME, exit_code=4)
    async with watching():
        (end,) = await until(lambda: ends(log))
    assert end.reason is SegmentEnd.LEASE_ENDED
    assert (end.elapsed_seconds, end.grace_seconds) == (318, 18)


async def test_an_unread_final_report_counts(
    js: JetStreamContext,
    log: EventLog,
    launcher: FakeLauncher,
    control: NotedControl,
    watching: Any,
) -> None:
    await say(js, report(5, Phase.TRAINING, outcome=SegmentEnd.STOPPED))
    launcher.end(NAME, exit_code=0)
    async with watching():
        (end,) = await until(lambda: ends(log))
    assert end.reason is SegmentEnd.STOPPED
    assert control.answered == [(JOB_ID, 1)]


async def test_a_report_of_another_segment_is_ignored(
    js: JetStreamContext,
    log: EventLog,
    launcher: FakeLauncher,
    control: NotedControl,
    watching: Any,
) -> None:
    named = report(9, Phase.TRAINING, outcome=SegmentEnd.STOPPED)
    await say(js, named.model_copy(update={"segment": 2}), named.subject)
    await say(js, PodSeen(account_id=ACCOUNT_ID, job_id=JOB_ID, segment=1, elapsed_seconds=7.9))
    launcher.end(NAME)
    async with watching():
        (end,) = await until(lambda: ends(log))
    assert (end.reason, end.elapsed_seconds) == (SegmentEnd.CRASHED, 7)
    assert control.answered == []


async def test_an_ended_pod_is_removed_and_its_log_kept(
    launcher: FakeLauncher,
    control: NotedControl,
    artifacts: Artifacts,
    segments: Segments,
    watching: Any,
) -> None:
    segments.record(report(5, Phase.TRAINING, outcome=SegmentEnd.STOPPED))
    launcher.end(NAME, exit_code=0)
    async with watching():
        await until(lambda: control.forgotten == [(JOB_ID, 1)])
    assert launcher.pods() == []
    assert artifacts.get(f"jobs/{ACCOUNT_ID}/{JOB_ID}/logs/segment-1.log") == launcher.output


async def test_unnamed_artifacts_are_deleted_with_the_pod(
    launcher: FakeLauncher,
    control: NotedControl,
    artifacts: Artifacts,
    segments: Segments,
    watching: Any,
) -> None:
    """The trainer was killed while it stored files, or its report came too late."""
    home = f"jobs/{ACCOUNT_ID}/{JOB_ID}"
    named = f"{CHECKPOINT.ref}/manifest.json"
    others = f"{home}/checkpoints/segment-10/step-20/manifest.json"
    lost = [
        f"{home}/checkpoints/segment-1/{name}"
        for name in ("step-1/state", "step-20/manifest.json", "step-20/state")
    ]
    for ref in (named, others, *lost, f"{home}/adapter/segment-1/adapter_config.json"):
        artifacts.put(ref, b"{}")
    said = report(5, Phase.TRAINING, checkpoint=CHECKPOINT, outcome=SegmentEnd.STOPPED)
    segments.record(said)
    launcher.end(NAME, exit_code=0)
    async with watching():
        await until(lambda: control.forgotten == [(JOB_ID, 1)])
    assert artifacts.list(home) == sorted([named, others, f"{home}/logs/segment-1.log"])


async def test_a_trainer_of_an_ended_segment_is_stopped_after_its_grace(
    launcher: FakeLauncher, segments: Segments, watching: Any
) -> None:
    segments.lose(NAME, 10, None)
    async with watching():
        await until(lambda: NAME in launcher.stopped)
    assert launcher.pods() == [NAME], "until it has ended"


@pytest.mark.parametrize("ask", [History.pause, History.cancel])
async def test_a_restarted_scheduler_repeats_stop_requests(
    history: History, control: NotedControl, watching: Any, ask: Any
) -> None:
    ask(history)
    async with watching():
        await until(lambda: len(control.stopped) >= 2)
    assert set(control.stopped) == {(JOB_ID, 1)}


async def test_no_segment_is_stopped_without_a_request(
    js: JetStreamContext,
    log: EventLog,
    launcher: FakeLauncher,
    control: NotedControl,
    watching: Any,
) -> None:
    async with watching():
        await eventually_async(lambda: seen(js))  # it has looked at the living pod
        launcher.end(NAME)
        await until(lambda: ends(log))
    assert control.stopped == []


async def test_a_terminated_pod_keeps_its_phase_times(
    js: JetStreamContext, log: EventLog, launcher: FakeLauncher, watching: Any
) -> None:
    await say(js, report(5, Phase.TRAINING, phase_seconds={Phase.MODEL_LOAD: 2.5}))
    launcher.end(NAME, exit_code=1)
    async with watching():
        (end,) = await until(lambda: ends(log))
    assert end.phase_seconds == {Phase.MODEL_LOAD: 2.5}


async def test_an_unrecorded_pod_is_left_to_its_handler(
    log: EventLog, history: History, launcher: FakeLauncher, settings: Settings, watching: Any
) -> None:
    """Its launch may not be saved yet."""
    with command("end"):
        job = history.job
        job.end_segment(1, ending(SegmentEnd.STOPPED, 10))
        job.allocate_segment(2)
        log.commit(job)
    launcher.launch(segment_spec(history.job, 300, settings))
    launcher.end(PodName(JOB_ID, 2))
    launcher.end(NAME)
    async with watching():
        await until(lambda: launcher.pods() == [PodName(JOB_ID, 2)])
    assert len(ends(log)) == 1


async def test_a_failing_poll_does_not_block_other_pods(
    log: EventLog, launcher: FakeLauncher, watching: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    poll, broken = launcher.poll, PodName(JOB_ID, 0)
    monkeypatch.setattr(launcher, "pods", lambda: [broken, NAME])

    def look(name: PodName) -> Any:
        if name == broken:
            raise OSError("no such machine")
        return poll(name)

    monkeypatch.setattr(launcher, "poll", look)
    launcher.end(NAME)
    async with watching():
        assert await until(lambda: ends(log))


async def test_a_silent_pod_is_killed_and_its_segment_lost(
    js: JetStreamContext, log: EventLog, launcher: FakeLauncher, watching: Any
) -> None:
    await say(js, report(5, Phase.TRAINING, checkpoint=CHECKPOINT, elapsed_seconds=55.5))
    async with watching():
        (end,) = await until(lambda: ends(log))
    assert launcher.killed == [NAME]
    assert (end.reason, end.failure) == (SegmentEnd.CRASHED, FailureClass.NODE_LOST)
    assert (end.elapsed_seconds, end.kept_seconds) == (55, 40), "no second after its last report"


async def test_a_beating_pod_is_not_killed(
    log: EventLog,
    launcher: FakeLauncher,
    settings: Settings,
    watching: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    poll = launcher.poll

    def beating(name: PodName) -> Pod | None:
        launcher.beat(name)
        return poll(name)

    monkeypatch.setattr(launcher, "poll", beating)
    async with watching():
        await asyncio.sleep(2 * settings.silence_seconds)
    assert (launcher.killed, ends(log)) == ([], [])


async def test_an_earlier_report_needs_no_evidence(
    js: JetStreamContext, log: EventLog, launcher: FakeLauncher, watching: Any
) -> None:
    await say(js, report(5, Phase.TRAINING, elapsed_seconds=3.0))
    async with watching():
        await until(lambda: launcher.killed)
    assert await seen(js) is None, "it would be billed for time in which it was frozen"


@pytest.mark.parametrize("host", ["elsewhere"])
async def test_a_reporting_pod_of_another_host_is_not_lost(
    js: JetStreamContext,
    log: EventLog,
    pool: ConnectionPool[Connection],
    launcher: FakeLauncher,
    settings: Settings,
    watching: Any,
) -> None:
    OrderedConsumer(ProjectionEffect(OPEN_METERS, pool.connection), log).catch_up()
    launcher.remove(NAME)
    began, n = time.monotonic(), 0
    async with watching():
        while time.monotonic() < began + 2 * settings.silence_seconds:
            n += 1
            await say(js, report(n, Phase.TRAINING, elapsed_seconds=float(n)))
            await asyncio.sleep(0.01)
    assert ends(log) == []


@pytest.mark.parametrize("host", ["elsewhere"])
async def test_a_silent_pod_of_another_host_is_stopped_and_lost(
    js: JetStreamContext,
    log: EventLog,
    pool: ConnectionPool[Connection],
    launcher: FakeLauncher,
    control: NotedControl,
    watching: Any,
) -> None:
    OrderedConsumer(ProjectionEffect(OPEN_METERS, pool.connection), log).catch_up()
    launcher.remove(NAME)
    await say(js, report(5, Phase.TRAINING, checkpoint=CHECKPOINT, elapsed_seconds=55.5))
    async with watching():
        (end,) = await until(lambda: ends(log))
    assert (end.failure, end.elapsed_seconds, end.kept_seconds) == (FailureClass.NODE_LOST, 55, 40)
    assert (JOB_ID, 1) in control.stopped


async def test_a_trainer_that_does_not_stop_is_killed(
    launcher: FakeLauncher, segments: Segments, watching: Any
) -> None:
    segments.lose(NAME, 10, None)
    async with watching():
        await until(lambda: launcher.killed)
    assert NAME in launcher.stopped
