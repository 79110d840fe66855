"""A job pauses at its maximum cost, and goes on after a higher one, with real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from infrastructure.settings import Settings
from services.projector.audit import audit
from tests.running import GPUS, running_ecolink

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

SECONDS = 15
"""GPU time that the maximum cost pays for."""


def test_a_job_pauses_at_its_maximum_cost_and_goes_on(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    settings = Settings(
        home=home,
        heartbeat_seconds=0.2,
        meter_minute_seconds=5,
        guarantee_factor=0,
        lease_seconds=5,
        lease_extension_seconds=1,
    )
    with running_ecolink(tmp_path, settings) as ecolink:
        form = {
            "dataset": ecolink.dataset(tmp_path, examples=100),
            "base_model": "tiny",
            **GPUS,
            "hyperparameters": {"epochs": 20, "gradient_accumulation": 1, "save_steps": 200},
        }
        rate = ecolink.client.post("/estimates", form)["estimate"]["rate_per_hour"]["micros"]
        maximum = rate * SECONDS // 3600
        approved = ecolink.client.post(
            "/jobs", form | {"max_cost": f"{maximum / 1e6:.6f}"}, idempotency_key="limited"
        )
        path = f"/jobs/{approved['id']}"

        paused = ecolink.await_status(path, "paused")
        assert paused["pause_reason"] == "max_cost"
        assert paused["cost"]["micros"] <= maximum  # a slow machine may cause credited overruns
        ecolink.client.post(f"{path}/max-cost", {"max_cost": "5"})
        ecolink.client.post(f"{path}/resume", {})
        ended = ecolink.await_end(path)
        assert ended["status"] == "registered"
        assert ended["segment"] > paused["segment"]
        assert ended["grace_seconds"] <= ecolink.settings.grace_seconds
        assert audit(ecolink.settings).differences == []
