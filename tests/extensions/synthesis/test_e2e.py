"""Datasets that the running product generates, and models that train on them."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.demo.preparing import BASE_MODEL, offer_base
from domain.jobs.events import Registered
from domain.jobs.job import Job
from gateway.schemas import parsed_job_id
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.store import open_log
from infrastructure.settings import Settings
from services.scheduler.verification import Check, StoredCopy, verify
from tests.polling import eventually
from tests.running import GPUS, TIMEOUT_SECONDS, EcoLinkUnderTest, running_ecolink
from tests.scripted_model import Said, scripted

pytestmark = pytest.mark.full

SECONDS = 3600.0


def ended(ecolink: EcoLinkUnderTest, id: str, seconds: float) -> dict[str, Any]:
    """Wait until a generation pauses or ends."""
    path = f"/syntheses/{id}"
    eventually(lambda: ecolink.client.get(path)["status"] != "generating", seconds)
    return ecolink.client.get(path)


def trained(ecolink: EcoLinkUnderTest, dataset: str, base: str) -> dict[str, Any]:
    """Train one epoch on a dataset, and return the registered job."""
    path = f"/datasets/{dataset}"
    eventually(lambda: ecolink.client.get(path)["status"] != "validating", TIMEOUT_SECONDS)
    eventually(lambda: ecolink.client.get(path)["counting"] == [], TIMEOUT_SECONDS)
    assert ecolink.client.get(path)["status"] == "ready_for_training"
    body = {
        "dataset": dataset,
        "base_model": base,
        **GPUS,
        "hyperparameters": {"epochs": 1},
        "wait": True,
        "max_cost": None,
    }
    job = ecolink.client.post("/jobs", body)
    return ecolink.await_end(f"/jobs/{job['id']}")


def verified(ecolink: EcoLinkUnderTest, job: str) -> list[Check]:
    """Return the checks of `ecolink models verify`."""
    artifacts = Artifacts(ecolink.settings.artifacts)
    with open_log(ecolink.settings) as log:
        found = log.load(Job, parsed_job_id(job))
        (event,) = (each for each in log.events.get(found.id) if isinstance(each, Registered))
        return verify(log, artifacts, found, event, StoredCopy(artifacts, event.adapter_ref))


def test_a_generated_dataset_trains_a_model_whose_provenance_verifies(
    ecolink: EcoLinkUnderTest,
) -> None:
    busy = Said(status=503)
    with scripted(lambda number, _: busy if number % 7 == 3 else Said()) as model:
        endpoint = ecolink.client.post(
            "/synthesis-endpoints", {"name": "scripted", "url": f"{model.url}/v1", "key": "sk-1"}
        )
        form = {
            "name": "generated",
            "instructions": "Talk about tea.",
            "endpoint": endpoint["id"],
            "endpoint_model": "scripted",
            "examples": 24,
        }
        made = ecolink.client.post("/syntheses", form, idempotency_key="generated")
        eventually(lambda: len(model.requests) > 8)
        ecolink.kill("synthesis")
        run = ended(ecolink, made["id"], TIMEOUT_SECONDS)
    assert (run["status"], run["counts"]["accepted"]) == ("reviewing", 24)
    dataset = ecolink.client.post(f"/syntheses/{made['id']}/finish", {})
    eventually(
        lambda: ecolink.client.get(f"/datasets/{dataset['id']}")["status"] != "validating",
        TIMEOUT_SECONDS,
    )
    job = trained(ecolink, dataset["id"], "tiny")
    assert job["status"] == "registered"
    checks = verified(ecolink, job["id"])
    assert [each.name for each in checks if not each.ok] == []
    assert "dataset was generated" in [each.name for each in checks]


def attempts_of(ecolink: EcoLinkUnderTest, id: str) -> list[dict[str, Any]]:
    """Return all stored attempts of a synthesis."""
    refs = ecolink.artifacts.list(f"syntheses/{ecolink.account.account_id}/{id}/batches")
    lines = [line for ref in sorted(refs) for line in ecolink.artifacts.get(ref).splitlines()]
    return [json.loads(line) for line in lines]


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[EcoLinkUnderTest]:
    """A stack with the demo's base model."""
    home = tmp_path / "home"
    home.mkdir()
    with running_ecolink(tmp_path, Settings(home=home)) as running:
        offer_base(running.settings, print)
        yield running


TOPICS = [
    *("returns", "delivery", "invoices", "payment", "sizes", "gift cards", "refunds", "discounts"),
    *("damaged items", "cancelling an order", "a wrong address", "tracking", "a late parcel"),
    *("opening an account", "a lost password", "colours", "warranty", "repairs", "gift wrapping"),
    *("shipping costs", "pick-up in a shop", "exchanges", "stock", "customer service"),
]


@pytest.mark.full
@pytest.mark.timeout(3 * SECONDS)
def test_200_examples_on_the_demos_base(demo: EcoLinkUnderTest) -> None:
    """Kill the process five times. The judge scores all chats, and rejects none."""
    before = demo.balance_micros()
    form = {
        "name": "shop questions",
        "instructions": "A customer of an online shop asks a short question about an order.",
        "topics": TOPICS,
        "model": BASE_MODEL,
        "examples": 200,
        "personas": False,
        "temperature": 0.7,
        "answer_tokens": 224,
        "least_score": 1,
        "attempts": 3,
    }
    quote = demo.client.post("/syntheses/quote", form)
    began = time.monotonic()
    made = demo.client.post("/syntheses", form, idempotency_key="demo")
    path = f"/syntheses/{made['id']}"
    for accepted in (20, 60, 100, 140, 180):
        eventually(
            lambda accepted=accepted: demo.client.get(path)["counts"]["accepted"] >= accepted,
            SECONDS,
        )
        demo.kill("synthesis")
    run = ended(demo, made["id"], SECONDS)
    assert (run["status"], run["counts"]["accepted"]) == ("reviewing", 200), run
    attempts = attempts_of(demo, made["id"])
    assert all(each["judgement"] for each in attempts if each["outcome"] == "accepted")
    seconds, cost = time.monotonic() - began, run["cost"]["micros"]
    eventually(lambda: demo.balance_micros() == before - cost)
    assert quote["low"]["micros"] <= cost <= quote["high"]["micros"]
    dataset = demo.client.post(f"{path}/finish", {})
    job = trained(demo, dataset["id"], BASE_MODEL)
    assert job["status"] == "registered"
    report = demo.client.get(f"/datasets/{dataset['id']}/quality")
    found = {each["kind"]: each["examples"] for each in report["findings"]}
    assert found.keys().isdisjoint(("near_duplicate", "truncated_answer")), found
    checks = verified(demo, job["id"])
    assert [each.name for each in checks if not each.ok] == []
    print(
        json.dumps(
            {
                "cores": psutil.cpu_count(),
                "seconds": round(seconds),
                "counts": run["counts"],
                "problems": Counter(each["problem"] for each in attempts),
                "scores": Counter((each["judgement"] or {}).get("score") for each in attempts),
                "findings": found,
                "tokens": [run["prompt_tokens"], run["completion_tokens"]],
                "cost_micros": cost,
                "range_micros": [quote["low"]["micros"], quote["high"]["micros"]],
                "kills": 5,
            }
        )
    )
