"""Deletion of files, log lines and cached copies."""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from domain.jobs import events
from domain.jobs.failures import FailureClass
from domain.jobs.job import SegmentEnd
from domain.training.checkpoint import checkpoint_model
from domain.training.start import Start
from domain.use_cases.deployments import Deploying
from infrastructure.artifacts.disk_cache import MODELS
from infrastructure.artifacts.store import Artifacts, Manifest
from infrastructure.settings import Settings
from infrastructure.training.measurements import add_log_line, add_step, log_lines_of, steps_of
from infrastructure.training.reports import LogLine, StepMeasured
from services.scheduler.retention import delete_old_logs, trim_caches
from tests.builders.commands import NOW, FixedClock, command
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.builders.history import History
from tests.builders.reports import HOME
from tests.services.scheduler.conftest import Scheduler


def steps_stored(scheduler: Scheduler) -> set[str]:
    """The steps whose checkpoints have files."""
    return {ref.split("/")[2] for ref in scheduler.artifacts.list("checkpoints")}


def save(history: History, scheduler: Scheduler, step: int) -> None:
    """Store a checkpoint's files, and record it."""
    files = {"state.pt": b"%d" % step}
    stored = scheduler.artifacts.add_files(f"checkpoints/1/{step}", Manifest(files=()), files)
    history.save_checkpoint(1, step, 4 * step, manifest_sha256=stored.sha256)


def test_a_third_checkpoint_deletes_the_first(allocated: History, scheduler: Scheduler) -> None:
    for step in (10, 20, 30):
        save(allocated, scheduler, step)
    scheduler.catch_up()
    assert len(allocated.events(events.CheckpointPruned)) == 1
    assert steps_stored(scheduler) == {"20", "30"}
    allocated.complete(1)
    scheduler.catch_up()
    assert steps_stored(scheduler) == {"30"}


def test_promoting_a_checkpoint_deletes_the_one_before(
    launched: History, scheduler: Scheduler
) -> None:
    for step in (10, 20):
        save(launched, scheduler, step)
    launched.cancel()
    launched.end_segment(1, SegmentEnd.STOPPED, 90)
    scheduler.catch_up()
    assert steps_stored(scheduler) == {"10", "20"}
    launched.promote()
    scheduler.catch_up()
    assert steps_stored(scheduler) == {"20"}


def test_a_deployed_checkpoint_keeps_its_files_until_it_is_undeployed(
    allocated: History, scheduler: Scheduler
) -> None:
    allocated.import_base()
    allocated.deploy_base()
    save(allocated, scheduler, 10)
    model = allocated.deploy_checkpoint(10)
    for step in (20, 30):
        save(allocated, scheduler, step)
    allocated.complete(1)
    scheduler.catch_up()
    assert steps_stored(scheduler) == {"10", "30"}
    allocated.fail_deployment(model)
    scheduler.catch_up()
    assert steps_stored(scheduler) == {"10", "30"}
    allocated.undeploy(model)
    scheduler.catch_up()
    assert steps_stored(scheduler) == {"30"}


def cancelled_at_20(launched: History, scheduler: Scheduler) -> Start:
    """Cancel the job with two checkpoints. Return the start of a job that continues the first."""
    for step in (10, 20):
        save(launched, scheduler, step)
    launched.cancel()
    launched.end_segment(1, SegmentEnd.STOPPED, 90)
    scheduler.catch_up()
    saved = launched.job.checkpoints[0]
    return Start(
        model=checkpoint_model(launched.job.model_name, 10),
        job_id=JOB_ID,
        step=10,
        ref=saved.ref,
        manifest_sha256=saved.manifest_sha256,
    )


def test_a_checkpoint_is_kept_until_the_jobs_that_continue_it_have_ended(
    launched: History, scheduler: Scheduler
) -> None:
    start = cancelled_at_20(launched, scheduler)
    children = [launched.another_job() for _ in range(2)]
    for each in children:
        each.approve_job(start=start)
    scheduler.project()
    launched.promote()
    scheduler.catch_up()
    assert steps_stored(scheduler) == {"10", "20"}
    for each, left in zip(children, ({"10", "20"}, {"20"}), strict=True):
        each.cancel()
        if each.job.running is not None:
            each.end_segment(1, SegmentEnd.STOPPED, 0)
        scheduler.catch_up()
        assert steps_stored(scheduler) == left


def test_a_checkpoint_is_kept_for_a_job_that_the_read_model_lacks(
    launched: History, scheduler: Scheduler
) -> None:
    start = cancelled_at_20(launched, scheduler)
    scheduler.project()
    child = launched.another_job()
    child.approve_job(start=start)
    launched.promote()
    scheduler.catch_up()
    assert steps_stored(scheduler) == {"10", "20"}


@pytest.mark.parametrize("fails", [False, True], ids=["registered", "failed"])
def test_the_end_of_a_job_releases_the_checkpoint_that_it_continued(
    launched: History, scheduler: Scheduler, fails: bool
) -> None:
    start = cancelled_at_20(launched, scheduler)
    child = launched.another_job()
    child.approve_job(queued=False, start=start)
    scheduler.project()
    launched.promote()
    scheduler.catch_up()
    child.grant_lease(1)
    scheduler.catch_up()
    assert steps_stored(scheduler) == {"10", "20"}
    if fails:
        child.end_segment(1, SegmentEnd.CRASHED, 9, failure=FailureClass.BAD_DATA)
    else:
        child.start_training(1)
        child.complete(1)
    assert child.job.status.is_final
    scheduler.catch_up()
    assert steps_stored(scheduler) == {"20"}


def test_a_deleted_model_leaves_no_files(launched: History, scheduler: Scheduler) -> None:
    scheduler.artifacts.put(f"{HOME}/checkpoints/segment-1/step-10/state.pt", b"content")
    launched.save_checkpoint(1, 10, 40)
    launched.complete(1)
    with command("delete"):
        Deploying(launched.log).delete_model(ACCOUNT_ID, JOB_ID)
    for _ in range(2):  # a repeated deletion is harmless
        assert scheduler.handle(launched.last(events.ModelDeleted)) == []
    assert scheduler.artifacts.list(HOME) == []


def test_a_job_cancelled_before_a_checkpoint_leaves_no_files(
    launched: History, scheduler: Scheduler
) -> None:
    scheduler.artifacts.put(f"{HOME}/checkpoints/segment-1/step-10/state.pt", b"incomplete")
    launched.cancel()
    launched.end_segment(1, SegmentEnd.STOPPED, 5)
    scheduler.catch_up()
    assert scheduler.artifacts.list(HOME) == []


def test_old_log_lines_are_deleted_and_metrics_stay(history: History, scheduler: Scheduler) -> None:
    kept, running = timedelta(days=90), history.another_job()
    history.run_until("training")
    history.cancel()
    history.end_segment(1, SegmentEnd.STOPPED, 60)
    running.approve_job()
    scheduler.project()
    owner = {"account_id": ACCOUNT_ID, "segment": 1}
    line = LogLine(**owner, job_id=JOB_ID, n=1, level="INFO", text="loading", logged_at=NOW)
    step = StepMeasured(
        **owner,
        job_id=JOB_ID,
        step=1,
        total_steps=9,
        **dict.fromkeys(("train_loss", "smoothed_loss", "learning_rate"), 1.0),
        tokens=10,
        tokens_per_second=5.0,
        elapsed_seconds=1.0,
        measured_at=NOW,
    )
    with scheduler.pool.connection() as connection:
        add_log_line(connection, line)
        add_log_line(connection, line.model_copy(update={"job_id": running.job_id}))
        add_step(connection, step)

    def left(after: timedelta) -> list[UUID]:
        delete_old_logs(scheduler.pool, FixedClock(NOW + after), kept)
        with scheduler.pool.connection() as connection:
            assert steps_of(connection, JOB_ID) != []
            job_ids = (JOB_ID, running.job_id)
            return [each for each in job_ids if log_lines_of(connection, each)]

    assert left(kept) == [JOB_ID, running.job_id]
    assert left(kept + timedelta(seconds=1)) == [running.job_id]


def test_caches_are_trimmed_except_entries_in_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "retention")
    settings = Settings(home=tmp_path, model_cache_bytes=150, kernel_cache_bytes=150)
    trim_caches(settings)
    assert caplog.messages == []
    remote, copies = Artifacts("memory:///"), settings.cache / MODELS
    for name in "ab":
        files = {"weights": name.encode() * 100}
        remote.add_files(f"models/{name}", Manifest(files=()), files)
        kernel = settings.compiled / f"{name}{name}" / (name * 52)
        kernel.parent.mkdir(parents=True)
        kernel.write_bytes(b"k" * 100)
    used, released = (remote.local_directory(f"models/{name}", copies) for name in "ab")
    os.utime(used, (1000, 1000))
    remote.release_directory(released)
    trim_caches(settings)
    assert list(copies.iterdir()) == [used]
    assert sum(path.is_file() for path in settings.compiled.rglob("*")) == 1
    deleted = [record.args[0] for record in caplog.records if isinstance(record.args, tuple)]
    assert deleted == [1, 1]
