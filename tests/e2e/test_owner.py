"""What the owner of a job does to it, on real trainers: pause, resume, cancel, promote."""

from __future__ import annotations

from pathlib import Path

import pytest

from domain.core.money import charge_micros
from infrastructure.postgres.store import connect
from projections.gpu_pools import all_gpu_pools
from services.projector.audit import audit
from tests.polling import eventually
from tests.running import TIMEOUT_SECONDS, EcoLinkUnderTest

pytestmark = pytest.mark.timeout(600)


@pytest.mark.full
def test_a_job_of_two_ranks_is_paused_and_goes_on_with_one(
    ecolink: EcoLinkUnderTest, tmp_path: Path
) -> None:
    dataset = ecolink.dataset(tmp_path, examples=100)
    path = ecolink.approve(
        dataset, gpu_count=2, epochs=60, gradient_accumulation=1, save_steps=100_000
    )
    # Before its first step there is nothing to save.
    eventually(lambda: ecolink.client.get(path)["step"] > 0, TIMEOUT_SECONDS)
    for _ in range(2):
        ecolink.client.post(f"{path}/pause", {})
    paused = ecolink.await_status(path, "paused")
    assert paused["pause_reason"] == "owner"
    assert paused["checkpoint_step"] == paused["step"] > 0
    eventually(lambda: _held(ecolink) == 0)
    (ended,) = ecolink.events(path, "SegmentEnded")
    assert ended["reason"] == "stopped"
    _await_settled(ecolink, path, ended["elapsed_seconds"])

    ecolink.client.post(f"{path}/resume", {"gpu_count": 1})
    job = ecolink.await_status(path, "registered")
    assert (job["segment"], job["crashes"], job["gpu_count"]) == (2, 0, 1)
    first, second = ecolink.events(path, "TrainingStarted")
    assert (second["step"], second["total_steps"]) == (paused["step"], first["total_steps"])
    rates = [each["rate_micros_per_hour"] for each in ecolink.events(path, "SegmentAllocated")]
    assert rates == [2 * 600_000, 600_000]
    assert audit(ecolink.settings).differences == []


@pytest.mark.full
def test_a_cancelled_job_keeps_what_it_saved_and_is_promoted(
    ecolink: EcoLinkUnderTest, tmp_path: Path
) -> None:
    dataset = ecolink.dataset(tmp_path, examples=100)
    path = ecolink.approve(dataset, epochs=80, gradient_accumulation=1, save_steps=50)
    ecolink.await_events(path, "CheckpointSaved", 1)
    for _ in range(2):
        ecolink.client.post(f"{path}/cancel", {})
    job = ecolink.await_status(path, "cancelled")
    assert job["model"] is None
    assert job["expires_at"] is not None
    (ended,) = ecolink.events(path, "SegmentEnded")
    _await_settled(ecolink, path, ended["elapsed_seconds"])
    charged = ecolink.client.get(path)["charged"]["micros"]
    assert charged == charge_micros(600_000, ended["elapsed_seconds"])
    promoted = ecolink.client.post(f"{path}/promote", {})
    assert promoted["model"] in {
        model["model"] for model in ecolink.client.get("/models")["models"]
    }
    assert ecolink.artifacts.exists(f"{promoted['adapter_ref']}/adapter_model.safetensors")
    eventually(lambda: _held(ecolink) == 0)


def _await_settled(ecolink: EcoLinkUnderTest, path: str, seconds: int) -> None:
    """The meter is closed a moment after the job has stopped, with these seconds."""
    eventually(lambda: ecolink.client.get(path)["billed_seconds"] == seconds)


def _held(ecolink: EcoLinkUnderTest) -> int:
    """GPUs that are held in all pools."""
    with connect(ecolink.settings) as connection:
        return sum(pool["held"] for pool in all_gpu_pools(connection))
