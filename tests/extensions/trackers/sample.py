"""Trackers of the sample platform: a working and a failing connection, and runs of two jobs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from domain.training.integrations import Tracker, integration_of
from extensions.trackers.connections import (
    Server,
    connections_of,
    end_test,
    request_test,
    set_connection,
)
from extensions.trackers.runs import RunStatus, Sent, add_runs, run_of, store_run
from infrastructure.postgres.store import Connection

URL = "https://mlflow.example.com"
AWAY = "MLflow is not available: all connection attempts failed."
REFUSED = "Weights & Biases refuses the credentials (status 401). Replace them."


def add(connection: Connection, ada: UUID, registered: UUID) -> None:
    """Connect MLflow and Weights & Biases. One job has an unavailable tracker, one a finished run.

    The first is the oldest job of the account that trains.
    """
    training = connection.execute(
        "SELECT job_id FROM job_detail WHERE account_id = %s "
        "AND status = 'training' AND segment = 1 ORDER BY approved_at LIMIT 1",
        [ada],
    ).fetchone()["job_id"]
    now = datetime.now(UTC)
    mlflow = Server(URL, "ada", "secret")
    wandb = Server("https://api.wandb.ai", "api", "secret")
    for tracker, server, error in (
        (Tracker.MLFLOW, mlflow, None),
        (Tracker.WANDB, wandb, REFUSED),
    ):
        set_connection(connection, ada, tracker, server, now)
        request_test(connection, ada, tracker, now)
        end_test(connection, connections_of(connection, ada)[tracker], error, now)
    both = [integration_of("mlflow:support"), integration_of("wandb:team/support")]
    add_runs(connection, ada, training, both, now)
    add_runs(connection, ada, registered, both[:1], now)
    page = f"{URL}/#/experiments/1/runs"
    later = {"sent_at": now - timedelta(minutes=3), "next_attempt_at": now + timedelta(minutes=1)}
    failing = {"error": AWAY, "failures": 4, "failing_since": now - timedelta(minutes=3)}
    _store(connection, training, 118, status=RunStatus.SENDING, url=f"{page}/1", **later, **failing)
    ended = {"status": RunStatus.FINISHED, "finished_at": now}
    _store(connection, registered, 450, url=f"{page}/2", **later, **ended)


def _store(connection: Connection, job_id: UUID, step: int, **changes: Any) -> None:
    run = run_of(connection, job_id, Tracker.MLFLOW)
    assert run is not None
    sent = replace(Sent(), last_step=step)
    assert store_run(connection, run, run_id="1", sent=sent, **changes) is not None
