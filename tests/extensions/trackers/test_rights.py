"""The gateway and the trackers process have the rights that they need, and no others."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from deploy.database_roles import role_of
from domain.training.integrations import Tracker, integration_of
from extensions.trackers import connections as tracker_connections
from extensions.trackers import runs as tracked_runs
from extensions.trackers.process.points import next_batch
from infrastructure.http.dispatcher import Busy
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from infrastructure.training.measurements import measured_rows
from projections.job_detail import rows_of
from tests.deploy.test_database_roles import PASSWORD, known_passwords  # noqa: F401


def test_the_gateway_connects_trackers_and_only_their_process_reads_the_secrets(
    settings: Settings,
) -> None:
    now, account_id, job_id = datetime.now(UTC), uuid4(), uuid4()
    assert settings.owner_database_url is not None
    url = make_conninfo(settings.owner_database_url, user=role_of("gateway"), password=PASSWORD)
    with connect(settings.model_copy(update={"database_url": url})) as connection:
        for secret in ("first", "second"):
            server = tracker_connections.Server("https://a.example", None, secret)
            tracker_connections.set_connection(connection, account_id, Tracker.MLFLOW, server, now)
        tracked_runs.add_runs(connection, account_id, job_id, [integration_of("mlflow:bot")], now)
        tracked_runs.stop_runs(connection, account_id, Tracker.MLFLOW, "x", now)
        tracked_runs.restart_runs(connection, account_id, Tracker.MLFLOW, now)
        tracked_runs.retry_run(connection, job_id, Tracker.MLFLOW, now)
        tracker_connections.request_test(connection, account_id, Tracker.MLFLOW, now)
        for query in (
            "SELECT secret FROM tracker_secrets",
            "SELECT * FROM tracker_secrets",
            "UPDATE tracker_secrets SET secret = 'x'",
            "UPDATE tracker_connections SET url = 'https://b.example'",  # would send it the secret
            "UPDATE tracker_connections SET account_id = gen_random_uuid()",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(query.encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("UPDATE tracked_runs SET finished_at = now()")
    own = make_conninfo(settings.owner_database_url, user=role_of("trackers"), password=PASSWORD)
    with connect(settings.model_copy(update={"database_url": own})) as connection:
        (tested,) = tracker_connections.requested_tests(connection, 8)
        tracker_connections.end_test(connection, tested, None, now)
        found = tracker_connections.server_of(connection, account_id, Tracker.MLFLOW)
        assert found is not None
        assert found.secret == "second"
        (run,) = tracked_runs.due_runs(connection, now, 8, Busy())
        assert next_batch(connection, job_id, run.sent, 10) is None
        assert measured_rows(connection, job_id) == 0
        stored = tracked_runs.store_run(
            connection,
            run,
            status=tracked_runs.RunStatus.SENDING,
            run_id="1",
            sent_at=now,
            failures=1,
            failing_since=now,
            error="x",
            next_attempt_at=now,
            finished_at=None,
        )
        assert stored is not None
        assert rows_of(connection, [job_id]) == []
        for change in ("integration = '{}'", "account_id = job_id"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"UPDATE tracked_runs SET {change}".encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("UPDATE tracker_connections SET url = 'x'")
    with connect(settings.model_copy(update={"database_url": url})) as connection:
        assert tracker_connections.delete_connection(connection, account_id, Tracker.MLFLOW)
    with connect(settings) as connection:
        assert connection.execute("SELECT * FROM tracker_secrets").fetchall() == []
        connection.execute("DELETE FROM tracked_runs WHERE account_id = %s", [account_id])
