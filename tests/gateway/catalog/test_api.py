"""The catalog of GPU types and regions."""

from __future__ import annotations

from fastapi.testclient import TestClient

from tests.builders.platform import Platform


def test_the_catalog_has_prices_and_the_gpu_types_of_each_region(
    client: TestClient, platform: Platform
) -> None:
    person, _ = platform.ready()
    platform.project()
    catalog = client.get("/api/catalog", headers=person.headers).json()
    assert catalog["gpu_types"][0]["rate_per_hour"]["micros"] == 600_000
    assert catalog["regions"][0]["gpu_types"] == ["cpu"]
