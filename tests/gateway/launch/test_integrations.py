"""Integrations of jobs without an extension that receives them."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from gateway.launch import integrations
from tests.builders.platform import Platform


def test_without_a_receiver_the_api_refuses_integrations(
    client: TestClient, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integrations, "selected", tuple)
    person, form = platform.ready()
    refused = client.post(
        "/api/jobs",
        json=form | {"integrations": [{"type": "tensorboard"}]},
        headers=person.headers | {"idempotency-key": "a"},
    )
    assert refused.status_code == 422, refused.text
    assert client.get("/api/jobs", headers=person.headers).json()["data"] == []
    made = client.post("/api/jobs", json=form, headers=person.headers | {"idempotency-key": "b"})
    assert made.status_code == 201, made.text
