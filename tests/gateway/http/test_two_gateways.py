"""Two gateways of one installation, behind a proxy that sends each request to either."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from websockets.sync.client import connect

from infrastructure.settings import Settings
from tests.builders.platform import Platform
from tests.gateway.conftest import running_gateway

Pair = tuple[httpx.Client, httpx.Client]


@pytest.fixture
def pair(settings: Settings, projecting: None) -> Iterator[Pair]:
    with running_gateway(settings) as first, running_gateway(settings) as second:
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
