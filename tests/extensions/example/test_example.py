"""The example extension works without a change of the core, and its data outlives its selection."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import psycopg
import pytest

from deploy.processes import environment
from domain.access.role import Role
from infrastructure.extensions import SELECTION
from infrastructure.postgres.store import scalar
from infrastructure.settings import Settings
from tests.builders.platform import Person, Platform
from tests.gateway.conftest import running_gateway

EXAMPLE, ROOT = Path(__file__).parent, Path(__file__).parents[3]
TEXT = "Buy more GPUs"

PROJECT = """
from infrastructure.settings import Settings
from infrastructure.postgres.store import connect, open_log
from tests.projecting import project
with open_log(Settings()) as log, connect(Settings()) as connection:
    project(log, connection)
"""
AUDIT = """
from infrastructure.settings import Settings
from services.projector.audit import audit
found = audit(Settings())
assert found.events and not found.differences, found
"""
ERASE = """
import sys
from uuid import UUID
from infrastructure.artifacts.store import Artifacts
from infrastructure.accounts.personal_data import delete_personal_data
from infrastructure.settings import Settings
from infrastructure.postgres.store import connect
with connect(Settings()) as connection:
    artifacts = Artifacts(Settings().artifacts)
    assert delete_personal_data(connection, artifacts, UUID(sys.argv[1])).rows
"""
COMMAND = "from deploy.cli import main; main()"

DECLARATION = """
from infrastructure.extensions import Extension
EXTENSION = Extension(package=__name__, summary="Opened.", projections=("opened:OPENED",))
"""
READ_MODEL = """
from domain.billing.account import Account
from projections.projection import Projection, one_by_one
DDL = "CREATE TABLE IF NOT EXISTS opened (account_id uuid PRIMARY KEY)"
def add(cursor, event):
    cursor.execute("INSERT INTO opened VALUES (%s)", [event.account_id])
OPENED = Projection("opened", ("opened",), DDL, (Account.AccountOpened,), one_by_one(add))
"""


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{EXAMPLE}{os.pathsep}{ROOT}")


def run(settings: Settings, program: str, *arguments: str) -> str:
    """Run a program with the extension, which must succeed, and return its output."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | environment(settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def migrate(settings: Settings) -> None:
    run(settings, "from deploy.migrate import main; main()")


def rights(settings: Settings) -> list[bool]:
    """Return whether the gateway and the scheduler may read notes, and the gateway write some."""
    assert settings.owner_database_url is not None
    query = "SELECT has_any_column_privilege(%s, 'notes', %s)"
    asked = (("gateway", "SELECT"), ("scheduler", "SELECT"), ("gateway", "INSERT"))
    with psycopg.connect(settings.owner_database_url) as connection:
        return [scalar(connection, query, [f"ecolink_{role}", each]) for role, each in asked]


def events(url: str, person: Person) -> list[dict[str, object]]:
    answer = httpx.get(f"{url}/api/events", headers=person.headers)
    return [each for each in answer.json()["data"] if each["event"] == "NoteWritten"]


@pytest.mark.full
@pytest.mark.timeout(900)
def test_an_extension_adds_all_its_parts(settings: Settings, platform: Platform) -> None:
    migrate(settings)
    assert rights(settings) == [True, True, True]
    person, operator = platform.person(), platform.person(Role.OPERATOR)
    with running_gateway(settings) as gateway, httpx.Client(base_url=gateway.url) as client:
        for status, text in ((201, TEXT), (422, "")):
            answer = client.post("/api/notes", json={"text": text}, headers=person.headers)
            assert answer.status_code == status, answer.text
        run(settings, PROJECT)
        (event,) = events(gateway.url, person)
        assert event["fields"] == {"characters": len(TEXT)}
        listed = run(settings, COMMAND, "--url", gateway.url, "--key", person.key, "notes", "list")
        assert TEXT in listed
        client.post("/sign-in", data={"api_key": operator.key})
        assert 'data-notes="1"' in client.get("/ops").text
    run(settings, AUDIT)


@pytest.mark.full
@pytest.mark.timeout(900)
def test_data_of_an_extension_outlives_its_selection(
    settings: Settings, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(settings)
    person = platform.person()
    with running_gateway(settings) as gateway:
        note = {"text": TEXT}
        assert httpx.post(f"{gateway.url}/api/notes", json=note, headers=person.headers).is_success
    monkeypatch.setenv(SELECTION, "")
    migrate(settings)
    assert rights(settings) == [False, True, False], "only an erasure may use the rows"
    run(settings, PROJECT)
    run(settings, AUDIT)
    with running_gateway(settings) as gateway:
        assert len(events(gateway.url, person)) == 1
        assert httpx.get(f"{gateway.url}/api/notes", headers=person.headers).status_code == 404
    run(settings, ERASE, str(person.account_id))
    monkeypatch.delenv(SELECTION)
    migrate(settings)
    assert rights(settings) == [True, True, True]
    with running_gateway(settings) as gateway:
        answer = httpx.get(f"{gateway.url}/api/notes", headers=person.headers)
        assert answer.json()["data"] == []


@pytest.mark.full
@pytest.mark.timeout(900)
def test_an_extension_adds_a_read_model(
    settings: Settings, platform: Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "extensions" / "openings"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(DECLARATION)
    (folder / "opened.py").write_text(READ_MODEL)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.setenv(SELECTION, "")  # it is up to date even while it is not selected
    person = platform.person()
    migrate(settings)
    run(settings, PROJECT)
    run(settings, AUDIT)
    with psycopg.connect(settings.owner_database_url or "") as connection:
        rows = connection.execute("SELECT account_id FROM opened").fetchall()
    assert (person.account_id,) in rows
