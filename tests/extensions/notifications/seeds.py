"""A webhook with a delivery, for the fuzz tests of the gateway."""

from __future__ import annotations

from typing import Any

import httpx
from fastapi.testclient import TestClient

from tests.builders.platform import Person


def seed(client: httpx.Client | TestClient, person: Person) -> dict[str, list[Any]]:
    """Create a webhook with one delivery. Return their IDs."""
    form, headers = {"url": "https://example.com/"}, person.headers
    made = client.post("/api/webhooks", json=form, headers=headers).json()["id"]
    sent = client.post(f"/api/webhooks/{made}/test", headers=headers)
    return {"webhook_id": [made], "delivery_id": [sent.json()["id"]]}
