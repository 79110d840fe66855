"""The trackers process itself, a real MLflow server, and an outage in real time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from deploy.processes import environment
from domain.jobs.public_id import job_name
from extensions.trackers.runs import RunStatus
from infrastructure.settings import Settings
from tests.builders.examples import JOB_ID
from tests.extensions.trackers.process.conftest import TrackedJob
from tests.localmlflow.process import running_mlflow
from tests.localmlflow.reading import MlflowServer
from tests.polling import eventually

pytestmark = pytest.mark.full

OUTAGE_SECONDS = 300.0


@contextmanager
def running_process(settings: Settings) -> Iterator[None]:
    """Run the trackers process until the end of the block."""
    permitted = {"webhook_networks": "127.0.0.0/8", "webhook_http": True}
    variables = environment(settings.model_copy(update=permitted))
    command = [sys.executable, "-m", "deploy.run", "trackers"]
    process = subprocess.Popen(command, env=os.environ | variables)
    try:
        yield
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def started(tracked: TrackedJob, url: str) -> TrackedJob:
    """Return a job that trains and is tracked."""
    tracked.clock.time = datetime.now(UTC)
    tracked.approve()
    tracked.connect(url)
    tracked.track({"type": "mlflow", "mlflow": {"experiment_name": f"process {uuid4().hex}"}})
    tracked.launch(1)
    return tracked


def test_the_process_sends_metrics_and_ends_at_sigterm(
    tracked: TrackedJob, settings: Settings, mlflow: MlflowServer
) -> None:
    job = started(tracked, mlflow.url)
    with running_process(settings):
        job.measure(1, 1, 20)
        eventually(lambda: job.run().sent.last_step == 20, 240)
    run = job.run()
    assert run.run_id is not None
    assert mlflow.values(run.run_id, *job.values()) == job.values()
    assert job_name(JOB_ID) in str(mlflow.runs(run.integration.mlflow.experiment_name))  # type: ignore[union-attr]


@pytest.mark.full
@pytest.mark.timeout(1_200)
def test_every_step_is_equal_after_a_real_outage(
    tracked: TrackedJob, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server is away for five minutes. A step is measured each second."""
    with running_mlflow(tmp_path) as server, running_process(settings):
        job, step = started(tracked, server.url), 0

        def train(seconds: float) -> None:
            nonlocal step
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                step += 1
                job.measure(1, step, step)
                time.sleep(1)

        train(10)
        eventually(lambda: (job.run().sent.last_step or 0) >= step - 3)
        server.stop()
        before = step
        train(OUTAGE_SECONDS)
        failing = job.run()
        assert failing.error is not None
        assert failing.status is RunStatus.SENDING
        server.start()
        back = time.monotonic()
        eventually(lambda: job.run().sent.last_step == step, 360)
        late = time.monotonic() - back
        run = job.run()
        assert run.run_id is not None
        assert server.values(run.run_id, *job.values()) == job.values()
        points = server.points(run.run_id, "train/loss")
    assert points == step
    with capsys.disabled():
        print(
            f"\n{step} steps, {step - before} of them in an outage of {OUTAGE_SECONDS:.0f} s; "
            f"{failing.failures} failed attempts; all values equal {late:.1f} s after the server "
            f"responded; {points} stored values of train/loss"
        )
