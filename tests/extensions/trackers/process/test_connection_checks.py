"""Requested tests of connections to trackers."""

from __future__ import annotations

import pytest

from deploy.local.ports import free_port
from domain.core.target import TargetPolicy
from domain.training.integrations import Tracker
from extensions.trackers.connections import Server, connections_of, request_test
from extensions.trackers.process.connection_checks import CheckQueue
from extensions.trackers.process.server_client import Reply, ServerClient
from extensions.trackers.process.servers import ANY_ADDRESS, Servers
from extensions.trackers.process.tracker import TrackerFailure
from infrastructure.http.dispatcher import Busy
from infrastructure.http.guarded import GuardedTransport
from tests.builders.examples import ACCOUNT_ID
from tests.extensions.trackers.process.conftest import TrackedJob
from tests.localwandb.server import KEY, running_wandb


async def checked(tracked: TrackedJob, servers: Servers) -> str | None:
    """Request a test and make it. Return its error."""
    queue = CheckQueue(tracked.pool, tracked.clock, servers)
    with tracked.pool.connection() as connection:
        request_test(connection, ACCOUNT_ID, Tracker.WANDB, tracked.clock.now())
    (due,) = queue.due(Busy())
    assert queue.due(Busy(messages=[due.id])) == []
    queue.record(due, await queue.send(due))
    assert queue.due(Busy()) == []
    with tracked.pool.connection() as connection:
        found = connections_of(connection, ACCOUNT_ID)[Tracker.WANDB]
    assert found.tested_at == tracked.clock.now()
    return found.test_error


async def test_a_test_tells_why_a_connection_fails(
    tracked: TrackedJob, local_servers: Servers
) -> None:
    with running_wandb() as wandb:
        tracked.connect(wandb.url, Tracker.WANDB, username="api", secret=KEY)
        assert await checked(tracked, local_servers) is None
        tracked.connect(wandb.url, Tracker.WANDB, username="api", secret="wrong")
        assert "401" in (await checked(tracked, local_servers) or "")
    assert "not available" in (await checked(tracked, local_servers) or "")


async def test_ecolink_connects_only_to_permitted_addresses() -> None:
    policy = TargetPolicy(http=True)
    transport = GuardedTransport(policy)
    client = ServerClient("MLflow", Server("http://localhost:5000"), policy, transport)
    with pytest.raises(TrackerFailure, match="does not have only public addresses"):
        await client.request("GET", "/")
    closed = ServerClient("MLflow", Server("http://10.0.0.1"), policy, transport)
    with pytest.raises(TrackerFailure, match="does not permit"):
        await closed.request("GET", "/")
    await transport.aclose()


async def test_an_impossible_answer_is_a_failure() -> None:
    deep = b"[" * 100_000
    assert Reply("MLflow", 200, deep, None).error_code is None
    with pytest.raises(TrackerFailure, match="not a JSON object"):
        _ = Reply("MLflow", 200, deep, None).document


async def test_an_impossible_url_is_a_failure() -> None:
    policy = TargetPolicy(http=True)
    transport = GuardedTransport(policy)
    client = ServerClient("MLflow", Server("https://a.example"), policy, transport)
    with pytest.raises(TrackerFailure, match="not available"):
        await client.request("GET", "/" + "a" * 70_000)
    await transport.aclose()


async def test_errors_of_the_operators_server_reveal_nothing_of_it() -> None:
    transport = GuardedTransport(ANY_ADDRESS)
    server = Server(f"http://127.0.0.1:{free_port()}", of_operator=True)
    with pytest.raises(TrackerFailure) as failed:
        await ServerClient("MLflow", server, ANY_ADDRESS, transport).request("GET", "/")
    assert str(failed.value) == "MLflow is not available: ask your operator."
    await transport.aclose()
    reply = Reply("MLflow", 500, b'{"message": "db.internal is down"}', None)
    assert "internal" in str(reply.failure())
    reply.shows_message = False
    assert "internal" not in str(reply.failure())
