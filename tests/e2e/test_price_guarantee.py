"""Jobs that share a machine whose processes are killed cost at most what was approved."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from deploy.local import stack
from deploy.local.home import Home
from deploy.local.pods import living_pods
from deploy.local.state import ChildState
from gateway.cli.client import ClientError
from infrastructure.settings import Settings
from services.projector.audit import audit
from tests.polling import eventually
from tests.running import EcoLinkUnderTest, running_ecolink

JOBS, KILLS, SEED = 5, 40, 1
END_SECONDS = 1500.0


@pytest.fixture
def ecolink(tmp_path: Path) -> Iterator[EcoLinkUnderTest]:
    home = tmp_path / "home"
    home.mkdir()
    settings = Settings(home=home, heartbeat_seconds=0.2, meter_minute_seconds=5)
    with running_ecolink(tmp_path, settings) as under_test:
        yield under_test


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_five_jobs_register_within_their_price_while_processes_are_killed(
    ecolink: EcoLinkUnderTest, tmp_path: Path
) -> None:
    ecolink.top_up(25)
    dataset = ecolink.dataset(tmp_path, examples=130)
    paths = [
        ecolink.approve(dataset, epochs=100, gradient_accumulation=1, save_steps=100)
        for _ in range(JOBS)
    ]
    chance = random.Random(SEED)
    kills = 0

    def ended() -> bool:
        nonlocal kills
        with suppress(psutil.NoSuchProcess):
            if kills < KILLS and (targets := _running(ecolink)):
                chance.choice(targets).kill()
                kills += 1
        with suppress(ClientError):  # the gateway was killed
            jobs = [ecolink.client.get(path) for path in paths]
            assert all(job["status"] not in ("failed", "paused") for job in jobs)
            return kills == KILLS and all(job["status"] == "registered" for job in jobs)
        return False

    eventually(ended, END_SECONDS)
    for path in paths:
        job = ecolink.await_end(path)
        assert job["cost"]["micros"] <= job["estimate"]["high"]["micros"]
        assert job["pay_at_most"]["micros"] == job["estimate"]["high"]["micros"]
    findings = audit(ecolink.settings)
    assert (findings.differences, findings.trial_balance_micros) == ([], 0)


def _running(ecolink: EcoLinkUnderTest) -> list[psutil.Process]:
    """Return the trainers, and the supervised processes once all of them run."""
    found = stack.state(ecolink.settings.home)
    children = found.children if found is not None else []
    if not children or any(each.state is not ChildState.RUNNING for each in children):
        return []
    shims = living_pods(Home(ecolink.settings.home))
    trainers = [child for shim in shims for child in shim.children()]
    return trainers + [each.process for each in children if each.process is not None]
