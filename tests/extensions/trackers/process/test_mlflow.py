"""Metrics in a tracking server of MLflow equal the stored measurements of the job."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

from domain.jobs.job import SegmentEnd
from domain.jobs.public_id import job_name
from extensions.trackers.process.mlflow import MOST_VALUE_CHARACTERS
from extensions.trackers.process.servers import Servers
from extensions.trackers.process.tracker import RunSummary
from extensions.trackers.retry_schedule import LONGEST
from extensions.trackers.runs import RunStatus
from infrastructure.postgres.log_identity import set_held
from tests.builders.examples import JOB_ID, PLAN
from tests.extensions.trackers.process.conftest import TO_MLFLOW, TrackedJob
from tests.gate import Gate
from tests.localmlflow.reading import MlflowServer

ENDED = timedelta(minutes=2)


def mlflow_run(experiment: str) -> dict:
    return {"type": "mlflow", "mlflow": {"experiment_name": experiment, "tags": {"team": "a"}}}


async def test_every_step_is_equal_after_five_minutes_without_the_server(
    tracked: TrackedJob, mlflow: MlflowServer, gate: Gate
) -> None:
    experiment = f"outage {uuid4().hex}"
    tracked.approve()
    tracked.connect(gate.url)
    tracked.track(mlflow_run(experiment))
    tracked.launch(1)
    tracked.measure(1, 1, 6)
    tracked.evaluate(1, 5, 2.4)
    run = await tracked.catch_up()
    assert run.run_id is not None
    assert mlflow.values(run.run_id, *tracked.values()) == tracked.values()

    gate.close()
    began = tracked.clock.now()
    for step in range(7, 20):
        tracked.measure(1, step, step)
        tracked.wait(seconds=25)
        await tracked.attempt()
    failing = tracked.run()
    assert tracked.clock.now() - began >= timedelta(minutes=5)
    assert failing.status is RunStatus.SENDING
    assert failing.error is not None
    assert failing.failures >= 5
    assert failing.next_attempt_at - tracked.clock.now() <= 1.1 * LONGEST

    gate.open()
    tracked.measure(1, 20, 24)
    caught_up = await tracked.catch_up()
    assert caught_up.sent.last_step == 24
    assert (caught_up.failures, caught_up.error) == (0, None)
    assert mlflow.values(run.run_id, *tracked.values()) == tracked.values()


async def test_a_finished_job_has_its_parameters_result_and_status(
    tracked: TrackedJob, mlflow: MlflowServer
) -> None:
    experiment = f"finished {uuid4().hex}"
    tracked.approve()
    tracked.connect(mlflow.url)
    tracked.track(
        {"type": "mlflow", "mlflow": {**TO_MLFLOW["mlflow"], "experiment_name": experiment}}
    )
    tracked.launch(1)
    tracked.measure(1, 1, 30)
    tracked.evaluate(1, 30, 2.0)
    tracked.evaluate(1, 0, 3.0)  # the base model, at the end
    tracked.complete(1)
    await tracked.catch_up()
    tracked.clock.time += ENDED
    run = await tracked.catch_up(RunStatus.FINISHED)

    (shown,) = mlflow.runs(experiment)
    info = shown["info"]
    parameters = {each["key"]: each["value"] for each in shown["data"]["params"]}
    tags = {each["key"]: each["value"] for each in shown["data"]["tags"]}
    assert (info["run_id"], info["run_name"], info["status"]) == (run.run_id, "first", "FINISHED")
    assert parameters["base_model"] == PLAN.base_model
    assert parameters["dataset_sha256"] == PLAN.dataset_sha256
    assert parameters["gpu_type"] == PLAN.gpu_type
    assert parameters["lora_r"] == str(PLAN.lora.lora_r)
    assert parameters["rate_usd_per_hour"] == "3.60"
    assert (tags["team"], tags["ecolink.status"]) == ("a", "registered")
    assert tags["ecolink.model"] == f"ft:tiny:{JOB_ID.hex[:12]}"
    assert f"/fine-tune/{job_name(JOB_ID)}" in tags["mlflow.note.content"]
    assert run.url == (f"{mlflow.url}/#/experiments/{info['experiment_id']}/runs/{info['run_id']}")
    assert mlflow.values(info["run_id"], *tracked.values()) == tracked.values()


async def test_steps_that_a_resumed_job_repeats_end_with_the_last_values(
    tracked: TrackedJob, mlflow: MlflowServer
) -> None:
    tracked.approve()
    tracked.connect(mlflow.url)
    tracked.track(mlflow_run(f"repeated {uuid4().hex}"))
    tracked.launch(1)
    tracked.measure(1, 1, 14)
    tracked.history.save_checkpoint(1, 10, 10)
    run = await tracked.catch_up()
    tracked.history.end_segment(1, SegmentEnd.STOPPED)
    tracked.launch(2, 10)
    tracked.measure(2, 11, 12)  # equal to those of segment 1
    tracked.measure(2, 13, 18, shift=0.25)
    await tracked.catch_up()
    assert run.run_id is not None
    assert mlflow.values(run.run_id, *tracked.values()) == tracked.values()
    assert mlflow.points(run.run_id, "train/loss") == 14 + 2 + 4


async def test_a_repeated_request_adds_nothing(tracked: TrackedJob, mlflow: MlflowServer) -> None:
    """The process was killed after MLflow accepted a request, before that was stored."""
    tracked.approve()
    tracked.connect(mlflow.url)
    experiment = f"twice {uuid4().hex}"
    tracked.track(mlflow_run(experiment))
    tracked.launch(1)
    tracked.measure(1, 1, 9)
    run = await tracked.catch_up()
    with tracked.pool.connection() as connection:
        connection.execute("UPDATE tracked_runs SET sent = '{}', run_id = NULL, status = 'waiting'")
    again = await tracked.catch_up()
    assert again.run_id == run.run_id
    assert len(mlflow.runs(experiment)) == 1
    assert run.run_id is not None
    assert mlflow.points(run.run_id, "train/loss") == 9


async def test_a_deleted_run_is_an_error_that_the_owner_sees(
    tracked: TrackedJob, mlflow: MlflowServer
) -> None:
    tracked.approve()
    tracked.connect(mlflow.url)
    tracked.track(mlflow_run(f"deleted {uuid4().hex}"))
    tracked.launch(1)
    tracked.measure(1, 1, 3)
    run = await tracked.catch_up()
    assert run.run_id is not None
    mlflow.delete_run(run.run_id)
    tracked.measure(1, 4, 4)
    tracked.clock.time = tracked.run().next_attempt_at
    await tracked.attempt()
    failing = tracked.run()
    assert failing.failures == 1
    assert failing.error is not None
    assert "deleted" in failing.error


async def test_long_parameters_are_cut_and_many_are_sent_in_parts(
    tracked: TrackedJob, mlflow: MlflowServer, local_servers: Servers
) -> None:
    experiment = f"parameters {uuid4().hex}"
    tracked.connect(mlflow.url)
    tracked.track(mlflow_run(experiment))
    with tracked.pool.connection() as connection:
        client = local_servers.client_of(connection, tracked.run())
    parameters = {"long": "x" * 10_000} | {f"parameter_{n}": n for n in range(150)}
    summary = RunSummary(job_name(JOB_ID), tracked.clock.now(), parameters)
    for _ in range(2):  # a repeated attempt changes nothing
        await client.start(summary)
    (shown,) = mlflow.runs(experiment)
    stored = {each["key"]: each["value"] for each in shown["data"]["params"]}
    assert stored.keys() == parameters.keys()
    assert stored["long"] == "x" * MOST_VALUE_CHARACTERS


async def test_a_restored_copy_sends_metrics_after_the_confirmation(
    tracked: TrackedJob, mlflow: MlflowServer
) -> None:
    tracked.approve()
    tracked.connect(mlflow.url)
    tracked.track(mlflow_run(f"held {uuid4().hex}"))
    tracked.launch(1)
    tracked.measure(1, 1, 2)
    with tracked.pool.connection() as connection:
        set_held(connection, True)
        assert await tracked.attempt() == 0
        set_held(connection, False)
    run = await tracked.catch_up()
    assert run.run_id is not None
    assert mlflow.values(run.run_id, *tracked.values()) == tracked.values()
