"""Webhooks of account holders, and the work of their process."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import pytest
from fastapi.testclient import TestClient

from extensions.notifications.domain.message import Message, WebhookType
from extensions.notifications.domain.retry_schedule import ATTEMPTS
from extensions.notifications.webhooks.deliveries import (
    Attempt,
    add_delivery,
    due_deliveries,
    record_attempt,
)
from infrastructure.http.dispatcher import Busy
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.builders.platform import Platform
from tests.gateway.api_user import ApiUser

URL = "https://example.com/hooks?token=x"


@dataclass(frozen=True)
class Process:
    """The webhooks process, which sends nothing: each attempt has a given outcome."""

    settings: Settings

    def record(self, webhook_id: str, name: str) -> None:
        """Record a delivery of a message."""
        now = datetime.now(UTC)
        message = Message(name, UUID(int=0), WebhookType.JOB_PAUSED, now, {"id": "ftjob-1"}, name)
        with connect(self.settings) as connection:
            add_delivery(connection, UUID(webhook_id), message, now)

    def attempt(self, status: int = 200, error: str | None = None) -> list[str]:
        """Give one attempt to each due delivery. Return the URLs."""
        now = datetime.now(UTC)
        with connect(self.settings) as connection:
            due = due_deliveries(connection, now, now, 100, Busy())
            for each in due:
                made = Attempt(now, 12, status, error, "the response")
                record_attempt(connection, each.id, made, now)
        return [each.url for each in due]

    def exhaust(self) -> None:
        """Refuse all attempts of the due deliveries."""
        for _ in range(ATTEMPTS):
            self.attempt(500, "Status 500.")
            with connect(self.settings) as connection:
                connection.execute("UPDATE webhook_deliveries SET next_attempt_at = created_at")


@pytest.fixture
def process(settings: Settings) -> Process:
    return Process(settings)


@pytest.fixture
def user(client: TestClient, platform: Platform) -> ApiUser:
    return ApiUser(client, platform.person())
