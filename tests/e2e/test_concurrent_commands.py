"""The audit is clean after concurrent approvals, mixed commands and kills of billing."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import pytest

from deploy.demo.account import top_up
from gateway.cli.client import Endpoint, Refused
from infrastructure.postgres.store import connect
from projections.open_meters import bound_segments, unbound_segments
from services.projector.audit import audit
from tests.polling import eventually
from tests.running import GPUS, TIMEOUT_SECONDS, EcoLinkUnderTest, PatientClient

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]

APPROVALS, COMMANDS, KILLS = 50, 72, 10
AT_ONCE = 8
FINAL = {"registered", "failed", "cancelled"}
KINDS = ("pause", "resume", "max-cost", "cancel", "top-up", "budget")


def test_the_audit_is_clean_after_concurrent_commands_and_kills_of_billing(
    ecolink: EcoLinkUnderTest, tmp_path: Path
) -> None:
    random = Random(31)
    with ecolink.newcomer(500) as owner:
        dataset = owner.dataset(tmp_path, examples=200)
        with ThreadPoolExecutor(AT_ONCE) as threads:
            jobs = list(threads.map(lambda _: approved(owner, dataset), range(APPROVALS)))
            assert len({*jobs}) == APPROVALS

            kinds = [KINDS[n % len(KINDS)] for n in range(COMMANDS)]
            random.shuffle(kinds)
            chosen = [(kind, random.choice(jobs)) for kind in kinds]
            answers = threads.map(lambda each: command(owner, *each), chosen)
            killed = sum(kill_with_open_meters(ecolink) for _ in range(KILLS))
            outcomes = Counter(answers)
        print(f"{APPROVALS} approvals, {outcomes.total()} commands: {dict(outcomes)}; ", end="")
        print(f"billing was killed {killed} times with open meters")
        assert (outcomes.total(), killed) == (COMMANDS, KILLS)
        for job in jobs:
            end(owner, job)
        eventually(lambda: not meters(ecolink), TIMEOUT_SECONDS)
        assert audit(ecolink.settings).differences == []


def approved(owner: EcoLinkUnderTest, dataset: str) -> str:
    """Approve a job, and repeat the request. Return its path in the API."""
    body = {
        "dataset": dataset,
        "base_model": "tiny",
        **GPUS,
        "hyperparameters": {"epochs": 100, "gradient_accumulation": 1, "save_steps": 100},
        "wait": True,
    }
    key = str(uuid4())
    first, second = (send(owner, "/jobs", body, key)["id"] for _ in range(2))
    assert first == second
    return f"/jobs/{first}"


def send(
    owner: EcoLinkUnderTest, path: str, body: dict[str, Any], key: str | None = None
) -> dict[str, Any]:
    assert owner.settings.gateway_url is not None
    with PatientClient(Endpoint(owner.settings.gateway_url, owner.key)) as client:
        return client.post(path, body, idempotency_key=key)


def command(owner: EcoLinkUnderTest, kind: str, job: str) -> str:
    """Give a command. Return its kind, with the code if its state refuses it."""
    try:
        match kind:
            case "top-up":
                top_up(owner.settings, owner.account.account_id, 1_000_000, f"test {uuid4()}")
            case "budget":
                send(owner, "/account/budgets", {"period": "month", "limit": "900"})
            case "max-cost":
                send(owner, f"{job}/max-cost", {"max_cost": "9"})
            case "resume":
                send(owner, f"{job}/resume", {"wait": True})
            case _:
                send(owner, f"{job}/{kind}", {})
    except Refused as refused:
        if (code := refused.problem.get("code")) not in ("wrong_state", "spending_limit_reached"):
            raise
        return f"{kind}: {code}"
    return kind


def meters(ecolink: EcoLinkUnderTest) -> list[Any]:
    with connect(ecolink.settings) as connection:
        return [*bound_segments(connection), *unbound_segments(connection)]


def kill_with_open_meters(ecolink: EcoLinkUnderTest) -> bool:
    """Kill billing as soon as a meter is open, and wait for its restart."""
    eventually(lambda: meters(ecolink), TIMEOUT_SECONDS)
    ecolink.kill("billing")
    return True


def end(owner: EcoLinkUnderTest, job: str) -> None:
    """Cancel a job that has not ended, and wait until its meters are closed."""
    if owner.client.get(job)["status"] not in FINAL:
        command(owner, "cancel", job)
    eventually(lambda: owner.client.get(job)["status"] in FINAL, TIMEOUT_SECONDS)
