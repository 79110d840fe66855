"""Integrations of jobs without an extension that receives them."""

from __future__ import annotations

from uuid import uuid4

import pytest
from fastapi.testclient import TestClient

from gateway.jobs.launch import integrations
from gateway.jobs.pages.wizard.entries import Entries, read
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


def test_without_a_receiver_the_wizard_drops_copied_integrations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copied_integrations = {"copied_integrations": '[{"type": "tensorboard"}]'}
    entries = Entries.fresh("tiny", "local", "cpu").model_copy(
        update={"dataset": str(uuid4()), **copied_integrations}
    )
    copied = read(entries).request
    assert copied is not None
    assert len(copied.integrations) == 1
    monkeypatch.setattr(integrations, "selected", tuple)
    without = read(entries).request
    assert without is not None
    assert without.integrations == []
