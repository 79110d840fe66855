"""A run belongs to the server that chose its ID."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from domain.training.integrations import Tracker
from extensions.trackers.connections import delete_connection
from extensions.trackers.process.runs import RunQueue
from extensions.trackers.process.servers import Servers
from extensions.trackers.process.tracker import Point, RunSummary, Started, TrackerClient
from extensions.trackers.runs import RunStatus, TrackedRun, retry_run, stop_runs
from infrastructure.postgres.store import Connection
from infrastructure.settings import Settings
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.extensions.trackers.process.conftest import TO_MLFLOW, TrackedJob

OWN = "https://mlflow.example.com"


class Recorded:
    """A server that accepts everything and keeps the run IDs that it receives."""

    most_points = 100

    def __init__(self, server: str) -> None:
        self.server, self.received = server, []

    async def check(self) -> None:
        """Accept the credentials."""

    async def start(self, summary: RunSummary) -> Started:
        return Started(f"run of {self.server}", None)

    async def send(
        self, run_id: str, points: Sequence[Point], line: int, newest: Mapping[str, float]
    ) -> None:
        self.received += [(run_id, point.step) for point in points]

    async def describe(self, run_id: str, summary: RunSummary, newest: Mapping[str, float]) -> None:
        self.received.append((run_id, None))


async def test_the_operators_server_never_receives_an_id_of_an_own_server(
    tracked: TrackedJob, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECOLINK_MLFLOW_URL", "http://mlflow.internal:5000")
    servers = Servers(settings)
    reached: dict[str, Recorded] = {}

    def client_of(connection: Connection, run: TrackedRun) -> TrackerClient:
        server = servers.client_of(connection, run).server
        return reached.setdefault(server, Recorded(server))

    tracked.queue = RunQueue(tracked.log, tracked.pool, tracked.clock, client_of)
    tracked.approve()
    tracked.connect(OWN)
    tracked.track(TO_MLFLOW)
    tracked.launch(1)
    tracked.measure(1, 1, 3)
    await tracked.catch_up()
    (own,) = reached.values()
    with tracked.pool.connection() as connection:
        delete_connection(connection, ACCOUNT_ID, Tracker.MLFLOW)
        stop_runs(connection, ACCOUNT_ID, Tracker.MLFLOW, "deleted", tracked.clock.now())
    tracked.measure(1, 4, 4)
    tracked.wait(minutes=10)
    assert await tracked.attempt() == 0
    assert (tracked.run().status, tracked.run().error) == (RunStatus.STOPPED, "deleted")

    with tracked.pool.connection() as connection:
        retry_run(connection, JOB_ID, Tracker.MLFLOW, tracked.clock.now())
    run = await tracked.catch_up()
    (operators,) = [each for each in reached.values() if each is not own]
    assert run.run_id == f"run of {operators.server}"
    assert operators.received == [(run.run_id, step) for step in (1, 2, 3, 4)]
    assert (f"run of {own.server}", 4) not in own.received
    await servers.aclose()


async def test_a_run_starts_again_if_the_operator_changes_the_server(
    tracked: TrackedJob, settings: Settings
) -> None:
    reached: list[Recorded] = []
    tracked.approve()
    tracked.track(TO_MLFLOW)
    tracked.launch(1)
    tracked.measure(1, 1, 3)
    for name in ("a", "b"):
        reached.append(Recorded(name))
        last = reached[-1]
        tracked.queue = RunQueue(
            tracked.log, tracked.pool, tracked.clock, lambda _connection, _run, last=last: last
        )
        tracked.wait(minutes=1)
        await tracked.attempt()
    assert tracked.run().run_id == "run of b"
    assert reached[1].received == [("run of b", step) for step in (1, 2, 3)]
