"""A job survives a second scheduler, and what hangs; its bill stays exact."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import psutil
import pytest

from deploy.local.home import Home
from deploy.processes import environment
from infrastructure.postgres.leadership import EXIT_CODE
from infrastructure.postgres.store import connect
from services.projector.audit import audit
from tests.polling import eventually
from tests.running import TIMEOUT_SECONDS, EcoLinkUnderTest

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]


@contextmanager
def second_scheduler(ecolink: EcoLinkUnderTest, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A scheduler of another host, as its own home makes it, on the stack's database."""
    settings = ecolink.settings.model_copy(
        update={
            "home": home,
            "artifacts_url": ecolink.settings.artifacts,
            "nats_credentials": Home(ecolink.settings.home).nats_credentials("scheduler"),
            "warm_trainers": 0,
        }
    )
    with (home / "scheduler.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "deploy.run", "scheduler"],
            env=os.environ | environment(settings),
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def leader(ecolink: EcoLinkUnderTest) -> int | None:
    """Process number of the scheduler that leads."""
    with connect(ecolink.settings) as connection:
        row = connection.execute("SELECT pid FROM leaderships WHERE name = 'scheduler'").fetchone()
    return None if row is None else row["pid"]


def test_a_second_scheduler_harms_no_job_and_takes_over_when_the_first_hangs(
    ecolink: EcoLinkUnderTest, tmp_path: Path
) -> None:
    dataset = ecolink.dataset(tmp_path, examples=150)
    path = ecolink.approve(dataset, epochs=100, gradient_accumulation=1, save_steps=50)
    ecolink.await_events(path, "TrainingStarted", 1)
    first = leader(ecolink)
    assert first is not None
    with second_scheduler(ecolink, tmp_path) as second:
        log = tmp_path / "scheduler.log"
        eventually(lambda: b"standing by" in log.read_bytes())
        ecolink.await_events(path, "CheckpointSaved", 1)
        assert leader(ecolink) == first

        frozen = psutil.Process(first)
        frozen.suspend()
        eventually(lambda: leader(ecolink) == second.pid, TIMEOUT_SECONDS)
        frozen.resume()
        assert frozen.wait(timeout=60) in (EXIT_CODE, None), "it is the supervisor's child"
        saved = len(ecolink.events(path, "CheckpointSaved"))
        ecolink.await_events(path, "CheckpointSaved", saved + 1)
        assert ecolink.events(path, "SegmentEnded") == []
    eventually(lambda: leader(ecolink) not in (first, second.pid), TIMEOUT_SECONDS)

    ecolink.client.post(f"{path}/pause", {})
    job = ecolink.await_status(path, "paused")
    assert (job["segment"], job["crashes"]) == (1, 0)
    assert audit(ecolink.settings).differences == []


def test_a_frozen_trainer_is_relaunched_and_no_second_beyond_its_last_report_is_billed(
    ecolink: EcoLinkUnderTest, tmp_path: Path
) -> None:
    dataset = ecolink.dataset(tmp_path, examples=100)
    path = ecolink.approve(dataset, epochs=60, gradient_accumulation=1, save_steps=50)
    ecolink.await_events(path, "CheckpointSaved", 1)
    ecolink.trainer().send_signal(signal.SIGSTOP)
    (ended,) = ecolink.await_events(path, "SegmentEnded", 1)
    assert (ended["reason"], ended["failure"]) == ("crashed", "node_lost")

    job = ecolink.await_end(path)
    assert (job["status"], job["segment"], job["crashes"]) == ("registered", 2, 1)
    with connect(ecolink.settings) as connection:
        row = connection.execute(
            "SELECT elapsed_seconds FROM segment_evidence WHERE job_id = %s AND segment = 1",
            [UUID(job["id"][-32:])],
        ).fetchone()
    assert row is not None
    assert ended["elapsed_seconds"] <= row["elapsed_seconds"]
    billed = [each for each in ecolink.events(path, "MinuteMetered") if each["segment"] == 1]
    assert max(each["to_seconds"] for each in billed) <= row["elapsed_seconds"]
    (closed, _) = ecolink.events(path, "MeterClosed")
    assert closed["billed_seconds"] <= row["elapsed_seconds"]
    assert audit(ecolink.settings).differences == []
