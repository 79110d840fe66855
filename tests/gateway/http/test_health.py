"""The health check."""

from __future__ import annotations

from unittest.mock import patch

import psycopg
from fastapi.testclient import TestClient

from gateway.http import health
from tests.gateway.http.shared_threads import later, threads_in_use
from tests.polling import TIMEOUT_SECONDS


def test_the_health_check_needs_no_thread_and_no_pooled_connection(client: TestClient) -> None:
    pool = client.app.state.backend.pool  # type: ignore[attr-defined]
    held = [pool.getconn() for _ in range(pool.max_size)]
    try:
        with threads_in_use(client):
            found = later(client, "GET", "/healthz").result(TIMEOUT_SECONDS)
    finally:
        for each in held:
            pool.putconn(each)
    assert found.json() == {"status": "ok", "disk": "ok"}


def test_the_health_check_connects_again_to_the_database(client: TestClient) -> None:
    assert client.get("/healthz").is_success
    with patch.object(psycopg.AsyncConnection, "execute", side_effect=psycopg.OperationalError):
        assert client.get("/healthz").status_code == 503
    assert client.get("/healthz").is_success


def test_a_database_that_does_not_respond_is_reported_in_time(client: TestClient) -> None:
    async def never(*_: object) -> None:
        await health.asyncio.sleep(TIMEOUT_SECONDS)

    with (
        patch.object(health, "CHECK_SECONDS", 0.1),
        patch.object(health, "connect_async", never),
    ):
        assert client.get("/healthz").status_code == 503
