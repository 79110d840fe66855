"""Metrics of requests: labels by route, whatever a client sends."""

from __future__ import annotations

from uuid import uuid4

from fastapi.testclient import TestClient
from prometheus_client import REGISTRY

from tests.builders.platform import Platform


def count(route: str, status: int, method: str = "GET") -> float:
    labels = {"method": method, "route": route, "status": str(status)}
    return REGISTRY.get_sample_value("ecolink_http_request_seconds_count", labels) or 0.0


def test_requests_are_counted_by_route(client: TestClient, platform: Platform) -> None:
    headers = platform.person().headers
    route = "/api/datasets/{dataset_id}"
    before = count(route, 404)
    for _ in range(2):
        assert client.get(f"/api/datasets/{uuid4()}", headers=headers).status_code == 404
    assert count(route, 404) == before + 2


def test_unknown_paths_and_methods_share_one_label(client: TestClient) -> None:
    before = count("unmatched", 404)
    for path in ("/no/such/page", "/another"):
        client.get(path)
    assert count("unmatched", 404) == before + 2
    before = count("unmatched", 405, "other") + count("unmatched", 404, "other")
    client.request("BREW", "/coffee")
    assert count("unmatched", 405, "other") + count("unmatched", 404, "other") == before + 1
