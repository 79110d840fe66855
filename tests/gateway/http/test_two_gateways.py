"""Two gateways of one installation, behind a proxy that sends each request to either."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
import pytest
from websockets.sync.client import connect

from infrastructure.settings import Settings
from tests.builders.platform import Platform
from tests.gateway.conftest import Gateway, running_gateway

pytestmark = pytest.mark.full

Pair = tuple[httpx.Client, httpx.Client]


@pytest.fixture
def gateways(settings: Settings, projecting: None) -> Iterator[tuple[Gateway, Gateway]]:
    with running_gateway(settings) as first, running_gateway(settings) as second:
        yield first, second


@pytest.fixture
def pair(gateways: tuple[Gateway, Gateway]) -> Iterator[Pair]:
    first, second = gateways
    with httpx.Client(base_url=first.url) as one, httpx.Client(base_url=second.url) as two:
        yield one, two


def test_one_user_is_served_by_two_gateways(pair: Pair, platform: Platform) -> None:
    one, two = pair
    person, form = platform.ready()

    assert one.post("/sign-in", data={"api_key": person.key}).status_code == 303
    session = "; ".join(f"{name}={value}" for name, value in one.cookies.items())
    assert "Sign out" in two.get("/datasets", headers={"cookie": session}).text

    stream = str(two.base_url).replace("http", "ws") + "/api/events/stream"
    with connect(stream, additional_headers=person.headers) as socket:
        headers = person.headers | {"idempotency-key": "once"}
        approved, repeated = (each.post("/api/jobs", json=form, headers=headers) for each in pair)
        assert (approved.status_code, repeated.status_code) == (201, 200)
        assert approved.json()["id"] == repeated.json()["id"]
        topics: list[str] = []
        while "JobApproved" not in topics:
            topics.append(json.loads(socket.recv(60))["event"])
    assert topics.count("JobApproved") == 1

    assert one.post(f"/api/keys/{person.key_id}/revoke", headers=person.headers).is_success
    assert two.get("/api/account", headers=person.headers).status_code == 401


FREEZES = (0.0, 0.01, 0.02, 0.04, 0.08, 0.16)
"""Seconds from a command to the moment at which its gateway freezes."""


def test_a_frozen_gateway_blocks_no_other_and_repeats_no_command(
    gateways: tuple[Gateway, Gateway], pair: Pair, platform: Platform
) -> None:
    """The client repeats each command at the other gateway, and the frozen one then resumes."""
    (one, two), (first, _) = pair, gateways
    person, form = platform.ready(dollars=50)
    names = [f"command {number}" for number in range(len(FREEZES))]

    def approve(client: httpx.Client, key: str, seconds: float = 60) -> dict[str, Any]:
        headers = person.headers | {"idempotency-key": key}
        answer = client.post("/api/jobs", json=form, headers=headers, timeout=seconds)
        assert answer.is_success, answer.text
        return answer.json()

    made: list[str] = []
    with ThreadPoolExecutor(len(FREEZES)) as threads:
        late: list[Future[dict[str, Any]]] = []
        for key, seconds in zip(names, FREEZES, strict=True):
            late.append(threads.submit(approve, one, key))
            time.sleep(seconds)
            with frozen(first.process):
                made.append(approve(two, key)["id"])
        assert [each.result()["id"] for each in late] == made
    assert len(set(made)) == len(FREEZES)
    listed = two.get("/api/jobs", headers=person.headers).json()["data"]
    assert {each["id"] for each in listed} == set(made)


@contextmanager
def frozen(process: psutil.Process) -> Iterator[None]:
    """Freeze a process during the block."""
    process.suspend()
    try:
        yield
    finally:
        process.resume()
