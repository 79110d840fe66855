"""A job survives what kill -9 can do to its processes, and its bill stays exact."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from domain.core.money import SECONDS_PER_HOUR
from services.projector.audit import audit
from tests.polling import eventually
from tests.running import EcoLinkUnderTest

pytestmark = pytest.mark.timeout(600)

UNLOGGED_SECONDS = 5
"""Between the last report that a trainer logged and one that it had no time to log."""

LINE = re.compile(r"^(report|checkpoint) .*?elapsed=([0-9.]+)", re.MULTILINE)


@pytest.mark.full
def test_trainer_billing_and_postgres_are_killed_one_after_another(
    ecolink: EcoLinkUnderTest, tmp_path: Path
) -> None:
    dataset = ecolink.dataset(tmp_path, examples=200)
    path = ecolink.approve(dataset, epochs=40, gradient_accumulation=1, save_steps=100)

    ecolink.await_events(path, "CheckpointSaved", 1)
    ecolink.trainer().kill()
    (ended,) = ecolink.await_events(path, "SegmentEnded", 1)
    assert ended["reason"] == "crashed"

    ecolink.await_events(path, "TrainingStarted", 2)
    ecolink.kill("billing")
    _await_another_checkpoint(ecolink, path)
    assert ecolink.client.get(path)["steps_remaining"] > 0
    ecolink.kill("postgres")

    job = ecolink.await_end(path)
    assert job["status"] == "registered"
    assert (job["segment"], job["crashes"]) == (2, 1)
    assert_billed_as_the_trainer_logged(ecolink, path, job)
    assert audit(ecolink.settings).differences == []


@pytest.mark.full
def test_scheduler_and_nats_are_killed_and_the_trainer_is_adopted(
    ecolink: EcoLinkUnderTest, tmp_path: Path
) -> None:
    dataset = ecolink.dataset(tmp_path, examples=100)
    path = ecolink.approve(dataset, epochs=60, gradient_accumulation=1, save_steps=100)

    ecolink.await_events(path, "TrainingStarted", 1)
    trainer = ecolink.trainer()
    ecolink.kill("scheduler")
    _await_another_checkpoint(ecolink, path)
    assert ecolink.client.get(path)["steps_remaining"] > 0
    ecolink.kill("nats")

    job = ecolink.await_end(path)
    assert job["status"] == "registered"
    assert (job["segment"], job["crashes"]) == (1, 0)
    eventually(lambda: not trainer.is_running())
    assert_billed_as_the_trainer_logged(ecolink, path, job)
    assert audit(ecolink.settings).differences == []


def _await_another_checkpoint(ecolink: EcoLinkUnderTest, path: str) -> None:
    ecolink.await_events(path, "CheckpointSaved", len(ecolink.events(path, "CheckpointSaved")) + 1)


def assert_billed_as_the_trainer_logged(
    ecolink: EcoLinkUnderTest, path: str, job: dict[str, Any]
) -> None:
    """An oracle that knows the rate and the trainer's own log, and nothing of the domain.

    A segment costs rate x seconds of its last report; of one that was killed, what its last
    reported checkpoint does not hold is credited. What it reported last it may not have logged.
    """
    rate = job["rate_per_hour"]["micros"]
    ends = ecolink.events(path, "SegmentEnded")
    charged = credited = 0
    for segment in range(1, job["segment"] + 1):
        log = _log(ecolink, job, segment)
        marks = [(kind, int(float(elapsed))) for kind, elapsed in LINE.findall(log)]
        seconds = kept = [seconds for kind, seconds in marks if kind == "report"][-1]
        if segment < job["segment"]:
            (ended,) = (each for each in ends if each["segment"] == segment)
            assert 0 <= ended["elapsed_seconds"] - seconds <= UNLOGGED_SECONDS
            assert ("checkpoint", ended["kept_seconds"]) in marks
            seconds, kept = ended["elapsed_seconds"], ended["kept_seconds"]
        charged += _rounded(rate * seconds)
        credited += _rounded(rate * seconds) - _rounded(rate * kept)
    assert job["charged"]["micros"] == charged
    assert job["credited"]["micros"] == credited
    assert job["cost"]["micros"] == charged - credited
    # The ledger is a read model of its own, and may be behind the job's page.
    eventually(lambda: _posted(ecolink, job) == charged - credited)


def _posted(ecolink: EcoLinkUnderTest, job: dict[str, Any]) -> int:
    """What the ledger has of a job, micro-dollars."""
    postings = ecolink.client.get("/ledger", job=job["id"])["data"]
    paid = {"minute metered": 1, "lost work credited": -1}
    return sum(paid[posting["reason"]] * posting["amount"]["micros"] for posting in postings)


def _rounded(micro_dollar_seconds_per_hour: int) -> int:
    whole, rest = divmod(micro_dollar_seconds_per_hour, SECONDS_PER_HOUR)
    return whole + (2 * rest >= SECONDS_PER_HOUR)


def _log(ecolink: EcoLinkUnderTest, job: dict[str, Any], segment: int) -> str:
    """What a segment's trainer wrote, kept when its pod was swept away."""
    folder = job["adapter_ref"].partition("/adapter/")[0]
    ref = f"{folder}/logs/segment-{segment}.log"
    eventually(lambda: ecolink.artifacts.exists(ref))
    return ecolink.artifacts.get(ref).decode()
