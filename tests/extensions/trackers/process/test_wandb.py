"""Metrics at Weights & Biases equal the stored measurements of the job.

The server is a local one. Its requests are also those of the real client, see
test_wandb_client.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from domain.jobs.job import SegmentEnd
from domain.jobs.public_id import job_name
from domain.training.integrations import Tracker
from extensions.trackers.runs import RunStatus, TrackedRun
from tests.builders.examples import JOB_ID, PLAN
from tests.extensions.trackers.process.conftest import TrackedJob
from tests.gate import gate_to
from tests.localwandb.server import KEY, LocalWandb, Run, running_wandb

TO_WANDB: dict[str, Any] = {
    "type": "wandb",
    "wandb": {"project": "bot", "name": "first", "entity": "team", "tags": ["a", "b"]},
}
NAME = job_name(JOB_ID)
RUN = ("team", "bot", NAME)


@pytest.fixture
def wandb() -> Iterator[LocalWandb]:
    with running_wandb() as running:
        yield running


@pytest.fixture
def job(tracked: TrackedJob, wandb: LocalWandb) -> TrackedJob:
    """A job that trains and is tracked."""
    tracked.tracker = Tracker.WANDB
    tracked.approve()
    tracked.connect(wandb.url, Tracker.WANDB, username="api", secret=KEY)
    tracked.track(TO_WANDB)
    tracked.launch(1)
    return tracked


async def finish(job: TrackedJob) -> TrackedRun:
    await job.catch_up()
    job.wait(minutes=2)
    return await job.catch_up(RunStatus.FINISHED)


async def test_a_finished_job_has_every_step_its_configuration_and_its_result(
    job: TrackedJob, wandb: LocalWandb
) -> None:
    job.measure(1, 1, 12)
    run = await job.catch_up()
    assert run.url == f"{wandb.url}/team/bot/runs/{NAME}"
    assert wandb.values(RUN) == job.values()
    assert wandb.runs[RUN].state == "running"
    job.measure(1, 13, 30)
    job.evaluate(1, 30, 2.0)
    job.evaluate(1, 0, 3.0)
    job.complete(1)
    finished = await finish(job)
    stored: Run = wandb.runs[RUN]
    assert wandb.values(RUN) == job.values()
    assert (stored.display_name, stored.tags, stored.exit_code) == ("first", ["a", "b"], 0)
    assert stored.config["base_model"]["value"] == PLAN.base_model
    assert stored.config["dataset_sha256"]["value"] == PLAN.dataset_sha256
    assert stored.config["lora_r"]["value"] == PLAN.lora.lora_r
    assert stored.summary["ecolink/model"] == f"ft:tiny:{JOB_ID.hex[:12]}"
    assert stored.summary["train/loss"] == job.values()["train/loss"][30]
    assert (finished.sent.last_step, finished.error) == (30, None)


async def test_every_step_is_equal_after_five_minutes_without_the_server(
    job: TrackedJob, wandb: LocalWandb
) -> None:
    with gate_to(wandb.port) as gate:
        job.connect(gate.url, Tracker.WANDB, username="api", secret=KEY)
        job.measure(1, 1, 6)
        await job.catch_up()
        gate.close()
        began = job.clock.now()
        for step in range(7, 20):
            job.measure(1, step, step)
            job.wait(seconds=25)
            await job.attempt()
        assert job.run().failures >= 5
        assert job.clock.now() - began >= timedelta(minutes=5)
        gate.open()
        await job.catch_up()
    assert wandb.values(RUN) == job.values()
    assert len(wandb.runs[RUN].history) == 19


async def test_a_repeated_request_replaces_the_same_lines(
    job: TrackedJob, wandb: LocalWandb
) -> None:
    """The process was killed after the server accepted a request, before that was stored."""
    job.measure(1, 1, 9)
    await job.catch_up()
    with job.pool.connection() as connection:
        connection.execute("UPDATE tracked_runs SET sent = '{}'")
    job.measure(1, 10, 11)
    await job.catch_up()
    assert len(wandb.runs[RUN].history) == 11
    assert wandb.values(RUN) == job.values()


async def test_steps_that_a_resumed_job_repeats_end_with_the_last_values(
    job: TrackedJob, wandb: LocalWandb
) -> None:
    job.measure(1, 1, 14)
    job.history.save_checkpoint(1, 10, 10)
    await job.catch_up()
    job.history.end_segment(1, SegmentEnd.STOPPED)
    job.launch(2, 10)
    job.measure(2, 11, 18, shift=0.25)
    await job.catch_up()
    assert wandb.values(RUN) == job.values()
    assert [line["_step"] for line in wandb.runs[RUN].history] == list(range(14 + 8))


async def test_rows_that_are_stored_late_are_sent_at_the_end(
    job: TrackedJob, wandb: LocalWandb
) -> None:
    job.measure(1, 1, 3)
    job.measure(1, 6, 30)  # the batch with steps 4 and 5 is stored later
    await job.catch_up()
    job.measure(1, 4, 5)
    job.complete(1)
    await finish(job)
    assert wandb.values(RUN) == job.values()
    assert sorted(job.values()["train/loss"]) == list(range(1, 31))


async def test_a_cancelled_job_is_shown_as_killed(job: TrackedJob, wandb: LocalWandb) -> None:
    job.measure(1, 1, 3)
    await job.catch_up()
    job.history.cancel()
    job.history.end_segment(1, SegmentEnd.STOPPED)
    job.project()
    await finish(job)
    assert wandb.runs[RUN].exit_code == 255


async def test_a_wrong_key_is_an_error_until_the_owner_replaces_it(
    job: TrackedJob, wandb: LocalWandb
) -> None:
    job.connect(wandb.url, Tracker.WANDB, username="api", secret="wrong")
    job.measure(1, 1, 3)
    await job.attempt()
    failing = job.run()
    assert (failing.status, failing.failures) == (RunStatus.WAITING, 1)
    assert failing.error is not None
    assert "401" in failing.error
    assert "wrong" not in failing.error
    job.connect(wandb.url, Tracker.WANDB, username="api", secret=KEY)
    await job.catch_up()
    assert wandb.values(RUN) == job.values()


async def test_ecolink_gives_up_after_a_week(job: TrackedJob, wandb: LocalWandb) -> None:
    with gate_to(wandb.port) as gate:
        gate.close()
        job.connect(gate.url, Tracker.WANDB, username="api", secret=KEY)
        await job.attempt()
        job.wait(days=6.9)
        await job.attempt()
        assert job.run().status is RunStatus.WAITING
        job.wait(days=0.2)
        await job.attempt()
    stopped = job.run()
    assert (stopped.status, await job.attempt()) == (RunStatus.STOPPED, 0)
    assert stopped.error is not None
