"""`ecolink trackers`, and the trackers of a job, against a gateway."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from domain.training.integrations import Tracker
from extensions.trackers.connections import connections_of, end_test
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.extensions.trackers.test_api import measure
from tests.gateway.cli.conftest import Owner, meanwhile
from tests.polling import eventually

URL = "https://mlflow.example.com"


def connected(me: Owner, *options: str, secret: str = "token") -> None:
    command = ("trackers", "connect", "mlflow", "--url", URL, *options, "--json")
    shown = json.loads(me.result(*command, stdin=f"{secret}\n").stdout)
    assert (shown["url"], shown["has_secret"]) == (URL, "--no-secret" not in options)


def test_a_connection_is_made_listed_and_deleted(me: Owner) -> None:
    connected(me)
    assert URL in me.run("trackers", "list")
    connected(me, "--no-secret")
    me.run("trackers", "disconnect", "mlflow")
    assert "You have no trackers" in me.run("trackers", "list")
    assert "no connection to MLflow" in me.refused("trackers", "disconnect", "mlflow", code=4)


def test_a_test_shows_the_error(me: Owner, settings: Settings) -> None:
    connected(me)

    def refuse() -> None:
        def requested() -> bool:
            with connect(settings) as connection:
                (found,) = connections_of(connection, me.person.account_id).values()
                if found.test_requested_at is None:
                    return False
                end_test(connection, found, "It is not available.", datetime.now(UTC))
            return True

        assert eventually(requested)

    worker = meanwhile(refuse)
    result = me.result("trackers", "test", "mlflow", code=1)
    worker.join()
    assert "It is not available." in result.stderr


def test_a_job_is_launched_with_trackers(me: Owner) -> None:
    options = ("--track", "mlflow:support bot", "--track", "tensorboard")
    refused = me.refused(*me.launch, *options, code=2)
    assert "no connection to MLflow" in refused
    connected(me)
    job = me.read(*me.launch, *options)["id"]
    runs = me.read("jobs", "trackers", job)["data"]
    assert [each["tracker"] for each in runs] == ["mlflow", "tensorboard"]
    assert runs[0]["integration"]["mlflow"]["experiment_name"] == "support bot"
    like = ("jobs", "launch", "--like", job)
    again, plain = (me.read(*like, *more)["id"] for more in ((), ("--without", "integrations")))
    found = me.read("jobs", "trackers", again)["data"]
    assert [each["integration"] for each in found] == [each["integration"] for each in runs]
    assert me.read("jobs", "trackers", plain)["data"] == []
    me.run("trackers", "disconnect", "mlflow")
    assert "--without integrations" in me.refused(*like, code=2)
    connected(me)
    assert me.read("jobs", "retry-tracker", job, Tracker.MLFLOW)["status"] == "waiting"
    assert "Unknown tracker" in me.refused(*me.launch, "--track", "x:y", code=2)


def test_the_metrics_of_a_job_are_written_for_tensorboard(
    me: Owner, settings: Settings, tmp_path: Path
) -> None:
    job = me.read(*me.launch)["id"]
    measure(settings, me.person, job, 1, *range(1, 9))
    me.run("jobs", "tensorboard", job, "--logdir", str(tmp_path))
    measure(settings, me.person, job, 2, 5, 6, 7)
    me.run("jobs", "tensorboard", job, "--logdir", str(tmp_path))
    assert len(list((tmp_path / job).iterdir())) == 2
    reader = EventAccumulator(str(tmp_path / job), size_guidance={"scalars": 0})
    reader.Reload()
    assert [each.step for each in reader.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6, 7]
    assert round(reader.Scalars("train/loss")[4].value, 3) == 2.2
    assert [each.value for each in reader.Scalars("eval/loss")] == [3.0]
