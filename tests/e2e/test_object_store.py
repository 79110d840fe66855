"""Artifacts on S3: a dataset, a job, its model and its audit, while the bucket is away once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cli.client import Refused, Unreachable
from infrastructure.settings import Settings
from tests.deploy.operator.command_line import ecolink as command
from tests.e2e.test_deployments import answers, status
from tests.gate import Gate
from tests.object_store import ROLE
from tests.polling import eventually
from tests.running import TIMEOUT_SECONDS, EcoLinkUnderTest, running_ecolink

pytestmark = [pytest.mark.full, pytest.mark.timeout(1500)]

JOB = {"epochs": 30, "gradient_accumulation": 1, "save_steps": 40, "seed": 7}
OUTAGE_SECONDS = 60.0


@pytest.fixture
def ecolink(
    s3_url: str, gate: Gate, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[EcoLinkUnderTest]:
    """The whole product, with its artifacts behind the gate."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings = Settings(
        home=home,
        heartbeat_seconds=0.2,
        meter_minute_seconds=5,
        artifacts_url=s3_url,
        artifacts_role=ROLE,
    )
    monkeypatch.setenv("ECOLINK_HOME", str(home))
    with running_ecolink(tmp_path, settings) as running:
        yield running


def test_a_job_on_s3_survives_an_outage_and_a_pause(
    ecolink: EcoLinkUnderTest, gate: Gate, tmp_path: Path
) -> None:
    dataset = ecolink.dataset(tmp_path, examples=40)
    job = ecolink.approve(dataset, **JOB)
    ecolink.await_events(job, "CheckpointSaved", 1)
    assert not any("AWS_SECRET" in name for name in ecolink.trainer().environ())

    gate.close()
    until = time.monotonic() + OUTAGE_SECONDS
    with pytest.raises((Refused, Unreachable)) as refused:
        ecolink.client.upload(tmp_path / "chats.jsonl", "late")
    assert "artifact store" in str(refused.value)
    while time.monotonic() < until:  # the length of the outage is the point of this test
        assert ecolink.client.get(job)["status"] == "training"
        time.sleep(1)
    gate.open()

    saved = len(ecolink.events(job, "CheckpointSaved"))
    ecolink.await_events(job, "CheckpointSaved", saved + 1)
    ecolink.client.post(f"{job}/pause", {})
    paused = ecolink.await_status(job, "paused")
    assert 0 < paused["step"] < paused["total_steps"]
    ecolink.client.post(f"{job}/resume", {})
    ended = ecolink.await_end(job)
    assert (ended["status"], ended["segment"]) == ("registered", 2)
    (resumed,) = ecolink.events(job, "ResumeCertified")
    assert resumed["step"] == paused["step"]

    ecolink.client.post(f"/models/{ended['model']}/deploy", {})
    eventually(lambda: status(ecolink, ended["model"]) == "active", TIMEOUT_SECONDS)
    assert answers(ecolink, ended["model"])
    assert "Nothing differs" in command("audit", "verify", "--artifacts")
    folders = Counter(ref.partition("/")[0] for ref in ecolink.artifacts.list(""))
    assert {"datasets", "jobs", "models", "seals"} <= folders.keys()
