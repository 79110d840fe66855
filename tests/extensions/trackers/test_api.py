"""Connections to trackers, and the trackers of a job, over the API."""

from __future__ import annotations

import io
import zipfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from openai import OpenAI
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from domain.access.rights import KeyRequest
from domain.access.scope import Scope
from domain.training.integrations import Tracker
from extensions.trackers.connections import (
    Server,
    connections_of,
    end_test,
    server_of,
    set_connection,
)
from gateway.http.openai_vocabulary import file_name, job_of
from gateway.jobs.launch import integrations
from infrastructure.accounts.personal_data import personal_tables
from infrastructure.postgres.store import connect, scalar
from infrastructure.settings import Settings
from infrastructure.training.measurements import add_evaluation, add_step
from infrastructure.training.reports import EvaluationMeasured, StepMeasured
from tests.builders.platform import BASE_MODEL, Person, Platform
from tests.extensions.trackers.conftest import MLFLOW, TO_MLFLOW, WANDB, Tracking
from tests.gateway.api_user import ApiUser
from tests.gateway.conftest import application
from tests.polling import eventually


def test_a_connection_is_made_shown_replaced_and_deleted(user: Tracking) -> None:
    made = user.connect()
    assert (made["tracker"], made["url"]) == ("mlflow", MLFLOW["url"])
    assert (made["has_secret"], made["status"]) == (True, "untested")
    assert "secret" not in made
    assert user.get("/api/trackers/mlflow").json() == made
    wandb = user.connect("wandb", **WANDB)
    assert (wandb["url"], wandb["username"]) == ("https://api.wandb.ai", None)
    assert [each["tracker"] for each in user.list("/api/trackers")] == ["mlflow", "wandb"]
    other = user.connect(url="https://other.example.com", username="ada", secret="x")
    assert (other["url"], other["username"]) == ("https://other.example.com", "ada")
    headers = user.person.headers
    assert user.client.delete("/api/trackers/mlflow", headers=headers).status_code == 204
    assert user.client.delete("/api/trackers/mlflow", headers=headers).status_code == 404
    assert user.get("/api/trackers/mlflow").status_code == 404


WRONG: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("mlflow", {}, "url"),
    ("mlflow", {"url": "http://mlflow.example.com"}, "url"),
    ("mlflow", {"url": "https://10.0.0.1"}, "url"),
    ("mlflow", {"url": "https://ada:x@mlflow.example.com"}, "url"),
    ("mlflow", {"url": "https://mlflow.example.com?x=1"}, "url"),
    ("mlflow", {"url": "https://mlflow.example.com", "username": "ada"}, "secret"),
    ("mlflow", {"url": "https://mlflow.example.com", "username": "a:b", "secret": "x"}, "username"),
    ("mlflow", {"url": "https://mlflow.example.com", "secret": "a\nb"}, "secret"),
    ("wandb", {}, "secret"),
    ("wandb", {"username": "ada", "secret": "x"}, "username"),
    ("tensorboard", {"url": "https://example.com"}, "tracker"),
)


def test_a_wrong_connection_is_refused_with_its_field(user: Tracking) -> None:
    for tracker, form, field in WRONG:
        answer = user.put(tracker, form)
        assert answer.status_code == 422, (form, answer.text)
        assert field in answer.text, form
    assert user.list("/api/trackers") == []


def test_only_the_scope_keys_manages_connections(
    user: Tracking, client: TestClient, platform: Platform
) -> None:
    user.connect()
    wanted = KeyRequest(scopes=[Scope.READ, Scope.TRAIN])
    reader = ApiUser(client, platform.key(user.person.account_id, wanted))
    shown = reader.get("/api/trackers/mlflow").json()
    assert (shown["url"], shown["username"]) == ("https://mlflow.example.com/…", None)
    headers = reader.person.headers
    assert client.put("/api/trackers/mlflow", json=MLFLOW, headers=headers).status_code == 403
    assert reader.post("/api/trackers/mlflow/test").status_code == 403


def test_the_gateway_cannot_read_a_secret(user: Tracking, settings: Settings) -> None:
    user.connect()
    with connect(settings) as connection:
        rows = connection.execute("SELECT secret FROM tracker_secrets").fetchall()
    assert [row["secret"] for row in rows] == ["token-1"]
    assert "token-1" not in user.get("/api/trackers").text
    assert {"tracker_connections", "tracked_runs"} <= personal_tables().keys()


def test_two_requests_replace_a_connection_at_the_same_time(
    user: Tracking, settings: Settings
) -> None:
    account_id, key = user.person.account_id, Tracker.MLFLOW
    at, later = (datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2))
    first, second = (Server(f"https://{each}.example", None, each) for each in "ab")
    with (
        ThreadPoolExecutor(1) as threads,
        connect(settings) as one,
        connect(settings) as two,
        connect(settings) as three,
    ):
        with one.transaction():
            set_connection(one, account_id, key, first, at)
            waiting = threads.submit(set_connection, two, account_id, key, second, later)
            query = "SELECT cardinality(pg_blocking_pids(%s))"
            eventually(lambda: scalar(three, query, [two.info.backend_pid]))
        waiting.result()
        assert server_of(three, account_id, key) == second
        stored = connections_of(three, account_id)[key]
        assert (stored.created_at, stored.changed_at) == (at, later)


def test_a_test_ends_with_the_result_of_the_process(user: Tracking, settings: Settings) -> None:
    assert user.post("/api/trackers/mlflow/test").status_code == 404
    user.connect()
    assert user.post("/api/trackers/mlflow/test").json()["status"] == "testing"
    with connect(settings) as connection:
        found = connections_of(connection, user.person.account_id)[Tracker.MLFLOW]
        end_test(connection, found, "MLflow refuses the credentials.", datetime.now(UTC))
    shown = user.get("/api/trackers/mlflow").json()
    assert (shown["status"], shown["error"]) == ("failing", "MLflow refuses the credentials.")
    user.connect()
    assert user.get("/api/trackers/mlflow").json()["status"] == "untested"


def test_a_job_is_tracked_if_the_account_has_a_connection(user: Tracking) -> None:
    form = user.form | {"integrations": [TO_MLFLOW]}
    for path in ("/api/estimates", "/api/jobs"):
        refused = user.post(path, form)
        assert refused.status_code == 422, refused.text
        assert "integrations" in refused.text
        assert "no connection to MLflow" in refused.text
    assert user.list("/api/jobs") == []

    user.connect()
    job = user.post("/api/jobs", form).json()["id"]
    (run,) = user.list(f"/api/jobs/{job}/trackers")
    assert (run["tracker"], run["status"], run["last_step"]) == ("mlflow", "waiting", None)
    assert run["integration"] == TO_MLFLOW
    retried = user.post(f"/api/jobs/{job}/trackers/mlflow/retry")
    assert (retried.status_code, retried.json()["status"]) == (202, "waiting")
    assert user.post(f"/api/jobs/{job}/trackers/wandb/retry").status_code == 404


def test_a_copy_of_a_job_has_its_trackers(user: Tracking) -> None:
    user.connect()
    form = user.form | {"integrations": [TO_MLFLOW, {"type": "tensorboard"}]}
    job = user.post("/api/jobs", form).json()["id"]
    copied = user.get(f"/api/jobs/{job}/request").json()
    assert copied["integrations"] == [TO_MLFLOW, {"type": "tensorboard", "tensorboard": {}}]
    again = user.post("/api/jobs", copied).json()["id"]
    runs = user.list(f"/api/jobs/{again}/trackers")
    assert [each["integration"] for each in runs] == copied["integrations"]

    user.client.delete("/api/trackers/mlflow", headers=user.person.headers)
    refused = user.post("/api/jobs", copied)
    assert refused.status_code == 422
    assert "leave it out of `integrations`" in refused.text
    assert user.post("/api/jobs", copied | {"integrations": []}).status_code == 201


def test_a_repeated_approval_keeps_the_run(user: Tracking) -> None:
    user.connect()
    form = user.form | {"integrations": [TO_MLFLOW, {"type": "tensorboard"}]}
    job = user.post("/api/jobs", form, **{"idempotency-key": "k"}).json()["id"]
    assert user.post("/api/jobs", form, **{"idempotency-key": "k"}).json()["id"] == job
    runs = user.list(f"/api/jobs/{job}/trackers")
    assert [each["tracker"] for each in runs] == ["mlflow", "tensorboard"]
    assert user.post(f"/api/jobs/{job}/trackers/tensorboard/retry").status_code == 409


@pytest.fixture
def calls(user: Tracking) -> list[tuple[str, dict[str, Any]]]:
    """A job with a tracker, for each of both APIs."""
    user.connect()
    body = {
        "model": BASE_MODEL,
        "training_file": file_name(UUID(user.form["dataset"])),
        "integrations": [TO_MLFLOW],
    }
    return [
        ("/api/jobs", user.form | {"integrations": [TO_MLFLOW]}),
        ("/v1/fine_tuning/jobs", body),
    ]


@pytest.mark.parametrize("missing", ["connection", "extension"])
def test_a_repeated_approval_succeeds_without_the_tracker(
    user: Tracking,
    calls: list[tuple[str, dict[str, Any]]],
    missing: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = [user.post(path, sent, **{"idempotency-key": path}).json()["id"] for path, sent in calls]
    if missing == "connection":
        gone = user.client.delete("/api/trackers/mlflow", headers=user.person.headers)
        assert gone.status_code == 204
    else:
        monkeypatch.setattr(integrations, "selected", tuple)
    assert [
        user.post(path, sent, **{"idempotency-key": path}).json().get("id") for path, sent in calls
    ] == made
    for path, sent in calls:
        assert user.post(path, sent, **{"idempotency-key": "other"}).status_code in (400, 422)


def test_a_deleted_connection_stops_its_runs_until_another_is_made(user: Tracking) -> None:
    user.connect()
    form = user.form | {"integrations": [TO_MLFLOW]}
    job = user.post("/api/jobs", form).json()["id"]
    user.client.delete("/api/trackers/mlflow", headers=user.person.headers)
    (run,) = user.list(f"/api/jobs/{job}/trackers")
    assert (run["status"], run["error"]) == ("stopped", "The connection to MLflow was deleted.")
    user.connect()
    (run,) = user.list(f"/api/jobs/{job}/trackers")
    assert (run["status"], run["error"]) == ("waiting", None)


def test_only_the_scope_keys_reads_the_url_and_the_error_of_a_run(
    user: Tracking, client: TestClient, platform: Platform, settings: Settings
) -> None:
    user.connect()
    form = user.form | {"integrations": [TO_MLFLOW]}
    job = user.post("/api/jobs", form).json()["id"]
    page, error = "https://mlflow.example.com/token-2/#/runs/1", "MLflow says: token-2"
    with connect(settings) as connection:
        connection.execute("UPDATE tracked_runs SET url = %s, error = %s", [page, error])
    (run,) = user.list(f"/api/jobs/{job}/trackers")
    assert (run["url"], run["error"]) == (page, error)
    wanted = KeyRequest(scopes=[Scope.READ, Scope.TRAIN])
    reader = ApiUser(client, platform.key(user.person.account_id, wanted))
    (run,) = reader.list(f"/api/jobs/{job}/trackers")
    assert run["url"] is None
    assert "keys" in run["error"]
    retried = reader.post(f"/api/jobs/{job}/trackers/mlflow/retry").text
    assert "token-2" not in retried


def test_the_operators_server_needs_no_connection(
    settings: Settings, platform: Platform, projecting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECOLINK_MLFLOW_URL", "http://mlflow.internal:5000")
    with TestClient(application(settings)) as client:
        user = Tracking(client, platform)
        (shown,) = user.list("/api/trackers")
        assert (shown["of_operator"], shown["url"]) == (True, None)
        answer = user.post("/api/jobs", user.form | {"integrations": [TO_MLFLOW]})
        assert answer.status_code == 201, answer.text
        assert user.put("mlflow", {"url": "http://mlflow.internal:5000"}).status_code == 422


def test_openai_clients_send_and_receive_integrations(
    user: Tracking, client_of: Any, platform: Platform
) -> None:
    client: OpenAI = client_of(user.person)
    user.connect("wandb", **WANDB)
    made = client.fine_tuning.jobs.create(
        model=BASE_MODEL,
        training_file=file_name(UUID(user.form["dataset"])),
        integrations=[{"type": "wandb", "wandb": {"project": "bot", "tags": ["a"]}}],
    )
    assert made.integrations is not None
    (found,) = made.integrations
    assert (found.type, found.wandb.project, found.wandb.tags) == ("wandb", "bot", ["a"])
    platform.project()
    again = client.fine_tuning.jobs.retrieve(made.id)
    assert again.integrations == made.integrations
    (run,) = user.list(f"/api/jobs/{job_of(made.id)}/trackers")
    assert run["status"] == "waiting"


def measure(settings: Settings, person: Person, job: str, segment: int, *steps: int) -> None:
    now = datetime.now(UTC)
    key: dict[str, Any] = {"account_id": person.account_id, "job_id": job_of(job)}
    with connect(settings) as connection:
        for step in steps:
            add_step(
                connection,
                StepMeasured(
                    **key,
                    segment=segment,
                    step=step,
                    total_steps=30,
                    train_loss=segment + 1 / step,
                    smoothed_loss=1.0,
                    learning_rate=1e-4,
                    tokens=100,
                    tokens_per_second=900.0,
                    elapsed_seconds=step,
                    measured_at=now,
                ),
            )
        add_evaluation(
            connection,
            EvaluationMeasured(
                **key,
                segment=segment,
                step=0,
                eval_loss=3.0,
                accuracy=0.5,
                examples=5,
                label_tokens=9,
                seconds=1.0,
                elapsed_seconds=9.0,
                measured_at=now,
            ),
        )


def test_the_files_of_tensorboard_have_the_standing_steps(
    user: Tracking, settings: Settings, tmp_path: Path
) -> None:
    job = user.post("/api/jobs", user.form).json()["id"]
    measure(settings, user.person, job, 1, *range(1, 9))
    measure(settings, user.person, job, 2, 5, 6)  # steps 7 and 8 are lost, and not repeated yet
    answer = user.get(f"/api/jobs/{job}/tensorboard")
    assert answer.headers["content-type"] == "application/zip"
    assert answer.content == user.get(f"/api/jobs/{job}/tensorboard").content
    with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
        packed.extractall(tmp_path / "files")
    (folder,) = (tmp_path / "files").iterdir()
    assert folder.name == job
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    losses = [(each.step, each.value) for each in reader.Scalars("train/loss")]
    assert [step for step, _ in losses] == [1, 2, 3, 4, 5, 6]
    assert [round(value, 3) for _, value in losses[-3:]] == [1.25, 2.2, 2.167]
    assert [each.value for each in reader.Scalars("eval/loss")] == [3.0]
