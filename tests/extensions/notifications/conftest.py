"""Endpoints and deliveries of an account."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from psycopg_pool import ConnectionPool

from extensions.notifications.domain.message import Message, WebhookType
from extensions.notifications.webhooks.deliveries import (
    Delivery,
    DeliveryStatus,
    add_delivery,
    attempts_of,
    newest_deliveries,
)
from extensions.notifications.webhooks.endpoints import Endpoint, create_endpoint, endpoint_of
from infrastructure.postgres.store import Connection
from tests.builders.commands import NOW, FixedClock
from tests.builders.examples import ACCOUNT_ID
from tests.extensions.notifications.receiving import Receiver, receiving


class Hooks:
    """The rows of webhooks, changed directly."""

    def __init__(self, pool: ConnectionPool[Connection]) -> None:
        self.pool, self.clock = pool, FixedClock()

    def endpoint(
        self,
        url: str = "https://example.com/",
        *types: WebhookType,
        account_id: UUID = ACCOUNT_ID,
    ) -> tuple[Endpoint, str]:
        """Create an endpoint. Return it with its secret."""
        with self.pool.connection() as connection:
            return create_endpoint(connection, account_id, url, "", types, self.clock.now())

    def reload(self, endpoint: Endpoint) -> Endpoint:
        with self.pool.connection() as connection:
            found = endpoint_of(connection, endpoint.account_id, endpoint.id)
        assert found is not None
        return found

    def add(
        self,
        endpoint: Endpoint,
        name: str,
        order_key: str | None = None,
        type: WebhookType = WebhookType.JOB_PAUSED,
    ) -> Delivery:
        """Add a delivery of a message with this ID."""
        message = Message(name, endpoint.account_id, type, NOW, {"id": "x"}, order_key or name)
        with self.pool.connection() as connection:
            return add_delivery(connection, endpoint.id, message, self.clock.now())

    def deliveries(self, endpoint: Endpoint) -> list[Delivery]:
        """Return the deliveries of an endpoint, oldest first."""
        with self.pool.connection() as connection:
            return newest_deliveries(connection, endpoint.id, 10_000)[::-1]

    def statuses(self, endpoint: Endpoint) -> dict[str, DeliveryStatus]:
        return {each.message_id: each.status for each in self.deliveries(endpoint)}

    def errors(self, delivery: Delivery) -> list[str | None]:
        """Return the errors of the attempts of a delivery."""
        with self.pool.connection() as connection:
            return [each.error for each in attempts_of(connection, [delivery.id])[delivery.id]]


@pytest.fixture
def hooks(pool: ConnectionPool[Connection]) -> Hooks:
    return Hooks(pool)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with receiving(tmp_path) as running:
        yield running
