"""The pod watch: evidence, lost pods and clean-up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from psycopg_pool import PoolTimeout

from domain.jobs import events
from domain.jobs.failures import FailureClass
from domain.jobs.job import SegmentEnd
from infrastructure.bus.service import broker_of
from infrastructure.bus.streams import REPORTS, provision
from infrastructure.postgres.store import Connection
from infrastructure.settings import Settings
from infrastructure.training.reports import Phase, PodSeen, Report
from projections.projection import Row
from services.scheduler import pod_watch
from services.scheduler.launchers.launcher import Pod, PodName
from services.scheduler.pod_reports import PodReports
from services.scheduler.pod_watch import PodWatch, Silences
from services.scheduler.segment_spec import segment_spec
from services.scheduler.segments import OVERRUN
from tests.builders.commands import NOW, FixedClock
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.builders.history import History
from tests.builders.reports import CHECKPOINT, HOME, training
from tests.polling import eventually, eventually_async
from tests.services.scheduler.conftest import FakeLauncher, Scheduler

NAME = PodName(JOB_ID, 1)
SEEN = PodSeen(account_id=ACCOUNT_ID, job_id=JOB_ID, segment=1, elapsed_seconds=7.9)
LAST_REPORT = training(5, checkpoint=CHECKPOINT, elapsed_seconds=55.5)

Watching = Callable[[], AbstractAsyncContextManager[PodWatch]]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings with frequent polls and no grace."""
    often = {"heartbeat_seconds": 0.02, "grace_seconds": 0, "trainer_silence_timeout_seconds": 1.0}
    return settings.model_copy(update=often)


@pytest.fixture
def host() -> str:
    """The host of the pod."""
    return "here"


@pytest.fixture(autouse=True)
async def launcher(
    js: JetStreamContext, history: History, scheduler: Scheduler, host: str
) -> FakeLauncher:
    """A launcher with the pod of the first segment, which sent no report yet."""
    await provision(js, ())
    history.run_until("leased")
    history.start_pod(1, host)
    scheduler.launcher.launch(segment_spec(history.job, 300, scheduler.settings))
    return scheduler.launcher


@pytest.fixture
def lost(scheduler: Scheduler, launcher: FakeLauncher) -> None:
    """Removes the pod, which the read model still expects."""
    scheduler.project()
    launcher.remove(NAME)


@pytest.fixture
def watching(scheduler: Scheduler) -> Watching:
    """Runs a watch, ten seconds after the pod was bound."""

    @asynccontextmanager
    async def run() -> AsyncIterator[PodWatch]:
        broker = broker_of(scheduler.settings, "scheduler")
        await broker.start()
        clock = FixedClock(NOW + timedelta(seconds=10))
        reports = PodReports(broker, clock, scheduler.launcher)
        parts = (scheduler.pool, scheduler.launcher, scheduler.segments, reports)
        watch = PodWatch(scheduler.log, *parts, scheduler.settings)
        task = asyncio.create_task(watch.run())
        try:
            yield watch
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await broker.stop()

    return run


async def say(js: JetStreamContext, message: Report | PodSeen, subject: str = "") -> None:
    await js.publish(subject or message.subject, message.model_dump_json().encode())


async def until(condition: Any) -> Any:
    return await asyncio.to_thread(eventually, condition)


async def watched_end(history: History, watching: Watching) -> events.SegmentEnded:
    """Watch until the segment has ended."""
    async with watching():
        (end,) = await until(lambda: history.events(events.SegmentEnded))
    return end


async def seen(js: JetStreamContext) -> PodSeen | None:
    """Return the last evidence on the stream."""
    try:
        message = await js.get_last_msg(REPORTS, SEEN.subject)
    except NotFoundError:
        return None
    return PodSeen.model_validate_json(message.data or b"")


async def test_a_living_pod_is_evidence_until_its_first_report(
    js: JetStreamContext,
    history: History,
    scheduler: Scheduler,
    launcher: FakeLauncher,
    watching: Watching,
) -> None:
    async with watching():
        evidence = await eventually_async(lambda: seen(js))
        assert evidence is not None
        assert evidence.elapsed_seconds == 10
        launcher.end(NAME)
        await until(lambda: history.events(events.SegmentEnded))
    scheduler.control.stop.assert_not_called()


async def test_a_reporting_trainer_needs_no_evidence(
    js: JetStreamContext,
    history: History,
    scheduler: Scheduler,
    launcher: FakeLauncher,
    watching: Watching,
) -> None:
    scheduler.segments.record(training())
    async with watching():
        launcher.end(NAME)  # the end of its segment proves that the watch has polled it
        await until(lambda: history.events(events.SegmentEnded))
    assert await seen(js) is None


async def test_an_earlier_report_needs_no_evidence(
    js: JetStreamContext, launcher: FakeLauncher, watching: Watching
) -> None:
    await say(js, training(5, elapsed_seconds=3.0))
    async with watching():
        await until(lambda: launcher.killed)
    assert await seen(js) is None, "the time in which it was frozen would be billed"


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (
            (LAST_REPORT.model_copy(update={"phase_seconds": {Phase.MODEL_LOAD: 2.5}}), -9),
            {
                "reason": SegmentEnd.CRASHED,
                "error_class": "TrainerExited(-9)",
                "elapsed_seconds": 55,
                "kept_seconds": 40,
                "phase_seconds": {Phase.MODEL_LOAD: 2.5},
            },
        ),
        (
            (training(5, elapsed_seconds=318.4, grace_seconds=18.4), OVERRUN),
            {"reason": SegmentEnd.LEASE_ENDED, "elapsed_seconds": 318, "grace_seconds": 18},
        ),
        ((SEEN, None), {"error_class": "ProcessLost", "elapsed_seconds": 7}),
        ((training(5, outcome=SegmentEnd.STOPPED), 0), {"reason": SegmentEnd.STOPPED}),
    ],
    ids=["killed", "overrun", "without reports", "unread final report"],
)
async def test_an_ended_pod_ends_its_segment_with_its_last_message(
    js: JetStreamContext,
    history: History,
    launcher: FakeLauncher,
    watching: Watching,
    last: tuple[Report | PodSeen, int | None],
    expected: dict[str, Any],
) -> None:
    message, exit_code = last
    await say(js, message)
    launcher.end(NAME, exit_code)
    end = await watched_end(history, watching)
    assert {name: getattr(end, name) for name in expected} == expected


async def test_an_unsent_report_is_read_from_the_pod(
    js: JetStreamContext, history: History, launcher: FakeLauncher, watching: Watching
) -> None:
    await say(js, training(5, elapsed_seconds=39.0))
    kept = training(5, checkpoint=CHECKPOINT, elapsed_seconds=41.0, outcome=SegmentEnd.STOPPED)
    launcher.kept = kept.model_dump_json().encode()
    launcher.end(NAME, exit_code=0)
    end = await watched_end(history, watching)
    assert (end.reason, end.elapsed_seconds, end.kept_seconds) == (SegmentEnd.STOPPED, 41, 40)


async def test_a_report_of_another_segment_is_ignored(
    js: JetStreamContext,
    history: History,
    scheduler: Scheduler,
    launcher: FakeLauncher,
    watching: Watching,
) -> None:
    named = training(9, outcome=SegmentEnd.STOPPED)
    await say(js, named.model_copy(update={"segment": 2}), named.subject)
    await say(js, SEEN)
    launcher.end(NAME)
    end = await watched_end(history, watching)
    assert (end.reason, end.elapsed_seconds) == (SegmentEnd.CRASHED, 7)
    scheduler.control.answer.assert_not_called()


@pytest.mark.usefixtures("lost")
async def test_a_segment_without_its_pod_is_lost(history: History, watching: Watching) -> None:
    end = await watched_end(history, watching)
    assert (end.reason, end.error_class) == (SegmentEnd.CRASHED, "ProcessLost")


async def test_an_ended_pod_leaves_its_log_and_named_artifacts(
    scheduler: Scheduler, launcher: FakeLauncher, watching: Watching
) -> None:
    """Unnamed artifacts exist if the trainer was killed while it stored them."""
    named = f"{CHECKPOINT.ref}/manifest.json"
    others = f"{HOME}/checkpoints/segment-10/step-20/manifest.json"
    lost = [
        f"{HOME}/checkpoints/segment-1/{name}"
        for name in ("step-1/state", "step-20/manifest.json", "step-20/state")
    ]
    for ref in (named, others, *lost, f"{HOME}/adapter/segment-1/adapter_config.json"):
        scheduler.artifacts.put(ref, b"{}")
    scheduler.segments.record(training(5, checkpoint=CHECKPOINT, outcome=SegmentEnd.STOPPED))
    launcher.end(NAME, exit_code=0)
    async with watching():
        await until(lambda: scheduler.control.forget.called)
    scheduler.control.forget.assert_called_once_with(JOB_ID, 1)
    assert launcher.pods() == []
    log = f"{HOME}/logs/segment-1.log"
    assert scheduler.artifacts.list(HOME) == sorted([named, others, log])
    assert scheduler.artifacts.get(log) == launcher.output


async def test_a_trainer_of_an_ended_segment_is_stopped_and_then_killed(
    scheduler: Scheduler, launcher: FakeLauncher, watching: Watching
) -> None:
    scheduler.segments.lose(NAME, 10, None)
    async with watching():
        await until(lambda: launcher.killed)
    assert NAME in launcher.stopped


async def test_a_restarted_scheduler_repeats_stop_requests(
    history: History, scheduler: Scheduler, watching: Watching
) -> None:
    history.pause()
    async with watching():
        await until(lambda: scheduler.control.stop.call_count >= 2)
    scheduler.control.stop.assert_called_with(JOB_ID, 1)


async def test_an_unrecorded_pod_is_left_to_its_event_handler(
    history: History, scheduler: Scheduler, launcher: FakeLauncher, watching: Watching
) -> None:
    """Its launch may not be saved yet."""
    history.end_segment(1, SegmentEnd.STOPPED)
    history.allocate_segment(2)
    launcher.launch(segment_spec(history.job, 300, scheduler.settings))
    launcher.end(PodName(JOB_ID, 2))
    launcher.end(NAME)
    async with watching():
        await until(lambda: launcher.pods() == [PodName(JOB_ID, 2)])
    assert len(history.events(events.SegmentEnded)) == 1


async def test_a_failing_poll_does_not_block_other_pods(
    history: History,
    launcher: FakeLauncher,
    watching: Watching,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    poll, broken = launcher.poll, PodName(JOB_ID, 0)

    def fail(name: PodName) -> Pod | None:
        if name == broken:
            raise OSError("no such machine")
        return poll(name)

    monkeypatch.setattr(launcher, "pods", lambda: [broken, NAME])
    monkeypatch.setattr(launcher, "poll", fail)
    launcher.end(NAME)
    await watched_end(history, watching)


async def test_no_segment_ends_while_the_cluster_does_not_answer(
    history: History,
    launcher: FakeLauncher,
    watching: Watching,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, pods = 0, launcher.pods

    def count() -> list[PodName]:
        nonlocal asked
        asked += 1
        return pods()

    monkeypatch.setattr(launcher, "pods", count)
    launcher.away = True
    launcher.end(NAME)
    async with watching():
        await until(lambda: asked >= 3)
        assert history.job.running
        launcher.away = False
        await until(lambda: history.events(events.SegmentEnded))


async def test_the_watch_continues_after_an_outage_of_the_database(
    history: History,
    launcher: FakeLauncher,
    watching: Watching,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, away, read = 0, True, pod_watch.bound_segments

    def count(connection: Connection) -> list[Row]:
        nonlocal asked
        asked += 1
        if away:
            raise PoolTimeout("couldn't get a connection after 10.00 sec")
        return read(connection)

    monkeypatch.setattr(pod_watch, "bound_segments", count)
    launcher.end(NAME)
    async with watching():
        await until(lambda: asked >= 3)
        assert history.job.running
        away = False
        await until(lambda: history.events(events.SegmentEnded))


async def test_a_pending_pod_of_an_ended_segment_is_removed(
    history: History, launcher: FakeLauncher, watching: Watching
) -> None:
    pending = PodName(JOB_ID, 7)
    launcher.pending.add(pending)
    async with watching():
        await until(lambda: pending not in launcher.pods())
    assert history.events(events.SegmentEnded) == []


async def test_a_silent_pod_is_killed_and_its_segment_lost(
    js: JetStreamContext, history: History, launcher: FakeLauncher, watching: Watching
) -> None:
    await say(js, LAST_REPORT)
    end = await watched_end(history, watching)
    assert launcher.killed == [NAME]
    assert (end.failure, end.elapsed_seconds, end.kept_seconds) == (FailureClass.NODE_LOST, 55, 40)


async def test_a_pod_whose_launcher_ends_silent_trainers_is_not_killed(
    scheduler: Scheduler,
    launcher: FakeLauncher,
    watching: Watching,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, polls, poll = 0.0, 0, launcher.poll

    def count(name: PodName) -> Pod | None:
        nonlocal polls
        polls += 1
        pod = poll(name)
        return pod and replace(pod, beat=None)

    monkeypatch.setattr(launcher, "poll", count)
    async with watching() as watch:
        watch.silences = Silences(lambda: now)
        await until(lambda: polls >= 2)
        now, seen = 1000.0, polls
        await until(lambda: polls >= seen + 3)
    assert launcher.killed == []


@pytest.mark.full
async def test_a_beating_pod_is_not_killed(
    history: History,
    launcher: FakeLauncher,
    settings: Settings,
    watching: Watching,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    poll = launcher.poll

    def beat(name: PodName) -> Pod | None:
        launcher.beat(name)
        return poll(name)

    monkeypatch.setattr(launcher, "poll", beat)
    async with watching():
        await asyncio.sleep(2 * settings.trainer_silence_timeout_seconds)
    assert (launcher.killed, history.events(events.SegmentEnded)) == ([], [])


@pytest.mark.parametrize("host", ["elsewhere"])
@pytest.mark.usefixtures("lost")
async def test_a_reporting_pod_of_another_host_is_not_lost(
    js: JetStreamContext, history: History, settings: Settings, watching: Watching
) -> None:
    """Given a report before each end of the allowed silence, by a clock that the test moves."""
    now = 0.0
    async with watching() as watch:
        watch.silences = silences = Silences(lambda: now)
        for n in range(1, 6):
            before = silences._shown.get(NAME)
            await say(js, training(n))
            await until(lambda before=before: silences._shown.get(NAME) not in (None, before))
            now += 0.9 * settings.trainer_silence_timeout_seconds
    assert history.events(events.SegmentEnded) == []


@pytest.mark.parametrize("host", ["elsewhere"])
@pytest.mark.usefixtures("lost")
async def test_a_silent_pod_of_another_host_is_stopped_and_lost(
    js: JetStreamContext, history: History, scheduler: Scheduler, watching: Watching
) -> None:
    await say(js, LAST_REPORT)
    end = await watched_end(history, watching)
    assert (end.failure, end.elapsed_seconds, end.kept_seconds) == (FailureClass.NODE_LOST, 55, 40)
    scheduler.control.stop.assert_called_with(JOB_ID, 1)
