"""A tracked job with stored measurements, and attempts to send them at a time that tests set."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from domain.jobs.job import SegmentEnd
from domain.training.integrations import INTEGRATION, Integration, Tracker
from extensions.trackers.connections import Server, set_connection
from extensions.trackers.metric_names import EVALUATION_METRICS, STEP_METRICS
from extensions.trackers.process.runs import RunQueue
from extensions.trackers.process.servers import Servers
from extensions.trackers.runs import RunStatus, TrackedRun, add_runs, run_of
from infrastructure.bus.consumer import OrderedConsumer
from infrastructure.http.dispatcher import Busy
from infrastructure.postgres.store import Connection
from infrastructure.settings import Settings
from infrastructure.training.measurements import add_evaluation, add_step, evaluations_of, steps_of
from infrastructure.training.reports import EvaluationMeasured, StepMeasured
from projections import JOB_DETAIL
from projections.projection import ProjectionEffect
from tests.builders.commands import NOW, FixedClock
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.builders.history import History
from tests.gate import Gate, gate_to
from tests.localmlflow.memory import mlflow_in_memory
from tests.localmlflow.process import running_mlflow
from tests.localmlflow.reading import MlflowServer

TO_MLFLOW: dict[str, Any] = {
    "type": "mlflow",
    "mlflow": {"experiment_name": "support/bot", "run_name": "first", "tags": {"team": "a"}},
}
Values = dict[str, dict[int, float]]


class TrackedJob:
    """One job, whose trainers and tracker the tests control."""

    def __init__(self, log: EventLog, pool: ConnectionPool[Connection], servers: Servers) -> None:
        self.log, self.pool, self.clock = log, pool, FixedClock()
        self.history = History(log)
        self.queue = RunQueue(log, pool, self.clock, servers.client_of, "https://ecolink.example")
        self.tracker = Tracker.MLFLOW
        self._elapsed = 0.0

    def approve(self) -> None:
        self.history.open_account(10_000_000)
        self.history.open_pool()
        self.history.approve_job()
        self.project()

    def launch(self, segment: int, step: int = 0) -> None:
        """Start training in a segment after a step."""
        if segment == 1:
            self.history.allocate_segment(segment)
        else:
            self.history.request_gpus(segment)
            self.history.allocate_segment(segment)
        self.history.grant_lease(segment, 60)
        self.history.start_pod(segment)
        self.history.start_training(segment, step)
        self.project()

    def complete(self, segment: int) -> None:
        """Evaluate, register and end the job."""
        self.history.complete(segment)
        self.history.end_segment(segment, SegmentEnd.COMPLETED)
        self.project()

    def project(self) -> None:
        OrderedConsumer(ProjectionEffect(JOB_DETAIL, self.pool.connection), self.log).catch_up()

    def measure(self, segment: int, first: int, last: int, shift: float = 0.0) -> None:
        """Store the measurements of steps. `shift` is added to their loss."""
        with self.pool.connection() as connection:
            for step in range(first, last + 1):
                self._elapsed += 1.5
                add_step(
                    connection,
                    StepMeasured(
                        account_id=ACCOUNT_ID,
                        job_id=JOB_ID,
                        segment=segment,
                        step=step,
                        total_steps=30,
                        train_loss=3.0 / step + shift,
                        smoothed_loss=3.1 / step + shift,
                        learning_rate=2e-4 / step,
                        tokens=1_000 + step,
                        tokens_per_second=900.0 + segment,
                        elapsed_seconds=self._elapsed,
                        peak_memory_bytes=1_200_000_000,
                        measured_at=NOW + timedelta(seconds=self._elapsed),
                    ),
                )

    def evaluate(self, segment: int, step: int, loss: float) -> None:
        """Store an evaluation."""
        self._elapsed += 3
        with self.pool.connection() as connection:
            add_evaluation(
                connection,
                EvaluationMeasured(
                    account_id=ACCOUNT_ID,
                    job_id=JOB_ID,
                    segment=segment,
                    step=step,
                    eval_loss=loss,
                    accuracy=0.5,
                    examples=5,
                    label_tokens=400,
                    seconds=2.0,
                    elapsed_seconds=self._elapsed,
                    measured_at=NOW + timedelta(seconds=self._elapsed),
                ),
            )

    def connect(self, url: str, tracker: Tracker = Tracker.MLFLOW, **server: Any) -> None:
        with self.pool.connection() as connection:
            set_connection(connection, ACCOUNT_ID, tracker, Server(url, **server), self.clock.now())

    def track(self, integration: dict[str, Any] = TO_MLFLOW, job_id: UUID = JOB_ID) -> None:
        found: Integration = INTEGRATION.validate_python(integration)
        with self.pool.connection() as connection:
            add_runs(connection, ACCOUNT_ID, job_id, [found], self.clock.now())

    def run(self) -> TrackedRun:
        with self.pool.connection() as connection:
            found = run_of(connection, JOB_ID, self.tracker)
        assert found is not None
        return found

    async def attempt(self) -> int:
        """Make the attempts that are due now, one after another. Return their number."""
        due = await asyncio.to_thread(self.queue.due, Busy())
        for each in due:
            await asyncio.to_thread(self.queue.record, each, await self.queue.send(each))
        return len(due)

    async def catch_up(self, status: RunStatus = RunStatus.SENDING) -> TrackedRun:
        """Make attempts, each at the time when it is due, until one sends nothing more."""
        for _ in range(100):
            before = self.run()
            self.clock.time = max(self.clock.time, before.next_attempt_at)
            await self.attempt()
            after = self.run()
            if after.status is status and after.error is None and before.sent == after.sent:
                return after
        raise AssertionError(f"still {self.run()}")

    def wait(self, **time: float) -> None:
        """Let time pass."""
        self.clock.time += timedelta(**time)

    def values(self) -> Values:
        """Return the job's own values of each step, as `/api` returns them."""
        found: Values = {}
        with self.pool.connection() as connection:
            for rows, metrics in (
                (steps_of(connection, JOB_ID), STEP_METRICS),
                (evaluations_of(connection, JOB_ID), EVALUATION_METRICS),
            ):
                for row in rows:
                    for column, metric in metrics.items():
                        if row[column] is not None:
                            found.setdefault(metric, {})[row["step"]] = row[column]
        return found


@pytest.fixture
async def local_servers(settings: Settings) -> AsyncIterator[Servers]:
    """Clients that may connect to this machine without TLS."""
    permitted = {"webhook_networks": "127.0.0.0/8", "webhook_http": True}
    made = Servers(settings.model_copy(update=permitted))
    yield made
    await made.aclose()


@pytest.fixture
def tracked(log: EventLog, pool: ConnectionPool[Connection], local_servers: Servers) -> TrackedJob:
    return TrackedJob(log, pool, local_servers)


@pytest.fixture
def gate(mlflow: MlflowServer) -> Iterator[Gate]:
    """A gate in front of the tracking server."""
    with gate_to(mlflow.port) as opened:
        yield opened


@pytest.fixture(params=["memory", pytest.param("real", marks=pytest.mark.full)])
def mlflow(request: pytest.FixtureRequest) -> MlflowServer:
    """A tracking server. The real one is installed at its first use, which takes a minute."""
    return request.getfixturevalue(f"{request.param}_mlflow")


@pytest.fixture(scope="session")
def memory_mlflow() -> Iterator[MlflowServer]:
    """A tracking server in memory, for all tests of the session."""
    with mlflow_in_memory() as running:
        yield running


@pytest.fixture(scope="session")
def real_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A real tracking server for all tests of the session. It starts in about 10 s."""
    with running_mlflow(tmp_path_factory.mktemp("mlflow")) as running:
        yield running
