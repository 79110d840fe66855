"""The page of trackers, the trackers on the page of a job, and those in the wizard."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx2
from fastapi.testclient import TestClient

from domain.training.integrations import Tracker
from extensions.trackers.connections import connections_of
from extensions.trackers.runs import RunStatus, Sent, run_of, store_run
from gateway.http.openai_vocabulary import job_of
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.builders.platform import BASE_MODEL, Platform
from tests.extensions.trackers.conftest import MLFLOW, TO_MLFLOW, WANDB, Tracking
from tests.gateway.jobs.launch.wizard_form import Wizard, problem
from tests.gateway.web.signed_in import Browser, signed_in
from tests.gateway.web.test_needed_rights import require_marks

HTMX = {"hx-request": "true"}
WRONG = (
    ("/trackers/mlflow", {"url": "https://10.0.0.1/"}),
    ("/trackers/mlflow", {"url": "https://x.example.com", "username": "a b"}),
    ("/trackers/wandb", {"url": "https://x.example.com"}),
)


def _post(browser: Browser, path: str, data: dict[str, str] | None = None) -> httpx2.Response:
    return browser.client.post(path, data=data or {}, headers=browser.htmx)


def test_a_connection_is_made_and_tested_on_the_page(user: Tracking, client: TestClient) -> None:
    browser = signed_in(client, user.person)
    assert 'data-status="none"' in client.get("/trackers").text
    answer = _post(browser, "/trackers/mlflow", data=MLFLOW)
    assert answer.status_code == 200, answer.text
    assert 'data-status="testing"' in answer.text
    assert "token-1" not in answer.text
    assert MLFLOW["url"] in client.get("/trackers").text
    for path, form in WRONG:
        assert "data-dismiss" in _post(browser, path, form).text
    (kept,) = user.list("/api/trackers")
    assert kept["url"] == MLFLOW["url"]
    assert 'data-status="none"' in _post(browser, "/trackers/mlflow/disconnect").text


def test_the_page_of_a_job_shows_its_trackers(
    user: Tracking, client: TestClient, settings: Settings, projecting: None
) -> None:
    user.connect()
    job = user.post("/api/jobs", user.form | {"integrations": [TO_MLFLOW]}).json()["id"]
    browser = signed_in(client, user.person)
    path = f"/fine-tune/{job}"
    assert 'data-status="waiting"' in client.get(path).text
    now = datetime.now(UTC)
    with connect(settings) as connection:
        run = run_of(connection, job_of(job), Tracker.MLFLOW)
        assert run is not None
        stored = store_run(
            connection,
            run,
            url="https://mlflow.example.com/#/runs/1",
            status=RunStatus.SENDING,
            sent=replace(Sent(), last_step=1_234),
            failures=3,
            failing_since=now,
            error="MLflow is not <available>.",
            next_attempt_at=now + timedelta(minutes=1),
        )
        assert stored is not None
    part = client.get(f"{path}/trackers", headers=HTMX).text
    assert "1,234" in part
    assert "MLflow is not &lt;available&gt;." in part
    assert 'href="https://mlflow.example.com/#/runs/1"' in part
    assert _post(browser, f"{path}/trackers/mlflow/retry").status_code == 200
    with connect(settings) as connection:
        again = run_of(connection, job_of(job), Tracker.MLFLOW)
    assert again is not None
    assert again.failures == 0
    assert again.next_attempt_at < now + timedelta(seconds=50)


def test_the_wizard_offers_the_connected_trackers(wizard: Wizard) -> None:
    assert "mlflow" not in wizard.shown.fields
    client, browser = wizard.browser.client, wizard.browser
    for tracker, form in (("mlflow", MLFLOW), ("wandb", WANDB)):
        path = f"/api/trackers/{tracker}"
        assert client.put(path, json=form, headers=browser.htmx).status_code == 200
    wizard.open()
    wizard.complete()
    wizard.change(wandb="not a project")
    assert "team/project" in problem(wizard.shown, "wandb")
    assert not wizard.is_clickable
    wizard.change(mlflow="a bot", wandb="team/bot")
    code = wizard.shown["command-line"].text
    assert "--track 'mlflow:a bot'" in code
    assert "--track wandb:team/bot" in code
    assert '{"type": "wandb", "wandb": {"project": "bot", "entity": "team"}}' in (
        wizard.shown["python"].text
    )
    job = wizard.approve()
    assert job is not None
    runs = client.get(f"/api/jobs/{job}/trackers").json()["data"]
    assert [each["tracker"] for each in runs] == ["mlflow", "wandb"]
    assert runs[0]["integration"]["mlflow"]["experiment_name"] == "a bot"


def test_the_code_of_a_duplicate_has_the_names_and_tags_of_runs(wizard: Wizard) -> None:
    client, browser = wizard.browser.client, wizard.browser
    assert client.put("/api/trackers/mlflow", json=MLFLOW, headers=browser.htmx).status_code == 200
    tracked = {"type": "mlflow", "mlflow": {"experiment_name": "it's", "tags": {"team": "a"}}}
    form = {"dataset": str(wizard.dataset), "base_model": BASE_MODEL, "integrations": [tracked]}
    made = client.post("/api/jobs", json=form, headers=browser.htmx).json()
    wizard.open(f"?like={made['id']}")
    words = shlex.split(wizard.shown["command-line"].text.replace("\\", ""))
    assert json.loads(words[words.index("--track") + 1]) == tracked
    assert '"tags": {"team": "a"}' in wizard.shown["python"].text


def test_a_duplicate_without_the_connection_shows_how_to_start_it(wizard: Wizard) -> None:
    client, browser = wizard.browser.client, wizard.browser
    path = "/api/trackers/mlflow"
    assert client.put(path, json=MLFLOW, headers=browser.htmx).status_code == 200
    wizard.open()
    wizard.complete()
    wizard.change(mlflow="a bot")
    job = wizard.approve()
    assert job is not None
    copy = f"?like=ftjob-{job.hex}"
    assert wizard.open(copy).fields["mlflow"] == "a bot"
    assert wizard.is_clickable
    assert client.delete(path, headers=browser.htmx).status_code == 204
    assert "no connection to MLflow" in problem(wizard.open(copy), "mlflow")
    assert not wizard.is_clickable
    assert "Training" in wizard.shown["phases"].text
    assert "no connection to MLflow" in problem(wizard.change(suffix="mine"), "mlflow")
    assert "mlflow" not in wizard.change(mlflow="").fields
    assert wizard.is_clickable


def test_readers_see_no_controls_of_other_accounts(
    user: Tracking, client: TestClient, platform: Platform, settings: Settings
) -> None:
    user.connect()
    signed_in(client, platform.person())
    assert MLFLOW["url"] not in client.get("/trackers").text
    with connect(settings) as connection:
        assert len(connections_of(connection, user.person.account_id)) == 1


def test_each_control_names_its_right(user: Tracking, client: TestClient) -> None:
    signed_in(client, user.person)
    require_marks(client, "/trackers")
