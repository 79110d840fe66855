"""Pricing a job before it is approved."""

from __future__ import annotations

from fastapi.testclient import TestClient

from domain.phases import Phase
from tests.gateway.conftest import World
from tests.gateway.test_jobs import ready


def test_a_quote_has_fit_range_balance_and_capacity(client: TestClient, world: World) -> None:
    person, body = ready(world)
    quote = client.post("/api/estimates", json=body, headers=person.headers).json()
    assert quote["fit"]["precision"] == "bf16"
    assert "full precision" in quote["fit"]["banner"]
    assert 0 < quote["fit"]["headroom_gib"] < quote["fit"]["vram_gib"]
    priced = quote["estimate"]
    assert [each["phase"] for each in priced["phases"]] == [phase.value for phase in Phase]
    assert 0 < priced["low_seconds"] < priced["high_seconds"]
    assert 0 < priced["low"]["micros"] < priced["high"]["micros"]
    assert priced["calibrated_from"] == 0
    balance = quote["balance"]
    assert balance["left"]["micros"] == 10_000_000 - priced["high"]["micros"]
    assert balance["missing"]["micros"] == 0
    assert quote["capacity"] == {"free": 2, "wait_seconds": 0, "elsewhere": []}
    assert quote["approvable"]
    assert "1,000" in quote["warnings"][0]
    assert not [each for each in world.topics() if each.startswith("Job")]


def test_two_gpus_cost_twice_the_rate(client: TestClient, world: World) -> None:
    person, body = ready(world)
    one, two = (
        client.post("/api/estimates", json=body | {"gpu_count": n}, headers=person.headers).json()
        for n in (1, 2)
    )
    rates = [quote["estimate"]["rate_per_hour"]["micros"] for quote in (one, two)]
    assert rates == [600_000, 1_200_000]


def test_an_estimate_of_what_does_not_exist_is_refused(client: TestClient, world: World) -> None:
    person, body = ready(world)
    answer = client.post(
        "/api/estimates", json=body | {"base_model": "none"}, headers=person.headers
    )
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "base_model")
    stranger = world.person(dollars=10)
    answer = client.post("/api/estimates", json=body, headers=stranger.headers)
    assert (answer.status_code, answer.json()["error"]["field"]) == (404, "dataset")


def test_a_base_that_is_not_counted_yet_is_said_so(client: TestClient, world: World) -> None:
    person, body = ready(world)
    world.base_model("other")
    answer = client.post(
        "/api/estimates", json=body | {"base_model": "other"}, headers=person.headers
    )
    assert (answer.status_code, answer.json()["error"]["field"]) == (409, "dataset")
    assert "counted" in answer.json()["error"]["message"]
