"""A process starts only on a database with the schema of its version."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.database_roles import ACCESS, ADD
from deploy.migrate import migrate
from deploy.processes import environment
from deploy.schema import REVISION, TABLES, revision_of
from infrastructure.postgres.schema_revision import has_revision, store_revision
from infrastructure.postgres.store import Connection, connect_to
from infrastructure.settings import Settings
from projections import PROJECTIONS
from tests.polling import eventually

SHAPES = {each.name: each.shape for each in PROJECTIONS}


@pytest.fixture
def owner(settings: Settings) -> Iterator[Connection]:
    """A connection of the database's owner."""
    assert settings.owner_database_url is not None
    with connect_to(settings.owner_database_url) as connection:
        yield connection


def test_each_change_of_the_schema_gives_another_revision() -> None:
    relay = replace(ACCESS["relay"], tables={"log_identity": ADD})
    revisions = {
        revision_of(TABLES, SHAPES, ACCESS),
        revision_of((*TABLES, "CREATE TABLE one ()"), SHAPES, ACCESS),
        revision_of(TABLES, SHAPES | {PROJECTIONS[0].name: "other"}, ACCESS),
        revision_of(TABLES, SHAPES, ACCESS | {"relay": relay}),
    }
    assert len(revisions) == 4


def test_all_processes_of_a_version_have_the_same_revision() -> None:
    code = "from deploy.schema import REVISION; print(REVISION, end='')"
    argv, variables = (sys.executable, "-c", code), os.environ | {"PYTHONHASHSEED": "7"}
    assert subprocess.check_output(argv, env=variables, text=True) == REVISION


def test_the_old_and_the_new_version_run_after_the_migration(owner: Connection) -> None:
    store_revision(owner, "new")
    store_revision(owner, "new")
    assert has_revision(owner, REVISION)
    assert has_revision(owner, "new")


def test_the_new_version_migrates_again_after_the_migration_of_the_old_one(
    owner: Connection, settings: Settings
) -> None:
    store_revision(owner, "new")
    migrate(settings)
    assert has_revision(owner, REVISION)
    assert not has_revision(owner, "new")


def healthy(beat: Path, *arguments: str) -> bool:
    """Return the result of the health check of a container."""
    argv = [sys.executable, "-m", "deploy.docker.healthy", *arguments]
    variables = os.environ | {"ECOLINK_BEAT_FILE": str(beat)}
    return subprocess.run(argv, env=variables, check=False).returncode == 0


@pytest.mark.full
@pytest.mark.parametrize("undo", ["DROP TABLE schema_revisions", "DELETE FROM schema_revisions"])
def test_a_process_waits_for_the_migration(
    owner: Connection, settings: Settings, tmp_path: Path, undo: str
) -> None:
    owner.execute(undo.encode())
    log, beat = tmp_path / "log", tmp_path / "beat"
    own = settings.model_copy(update={"beat_file": beat})
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.run", "sealer"],
            env=os.environ | environment(own),
            stderr=file,
        )
    try:
        eventually(lambda: "waits until a migration of this version has ended" in log.read_text())
        assert not beat.exists(), "the process is ready, so its predecessor is stopped"
        assert not healthy(beat)
        assert healthy(beat, "--alive"), "it is restarted while it waits"
        assert owner.execute("SELECT FROM processes").rowcount == 0
        migrate(settings)
        eventually(lambda: "the database has the schema of this version" in log.read_text())
        eventually(lambda: healthy(beat) and healthy(beat, "--alive"))
        eventually(lambda: owner.execute("SELECT FROM processes").rowcount == 1)
    finally:
        process.kill()
        process.wait()
