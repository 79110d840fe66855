"""A job while every connection to PostgreSQL and NATS uses TLS."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import psycopg
import pytest

from deploy.bus_access import BUS_ACCESS
from deploy.database_roles import OPERATOR_ROLE
from deploy.local.postgres import OWNER
from deploy.processes import PROCESSES, environment
from infrastructure.checks.machine import Level, server_checks
from infrastructure.postgres.database_url import OLDEST_POSTGRES, tls_fix
from infrastructure.settings import Settings
from tests.certificates import Authority
from tests.deploy.operator.command_line import ecolink as command
from tests.running import EcoLinkUnderTest, running_ecolink
from tests.tls_servers import (
    HOST,
    NatsUnderTest,
    PostgresUnderTest,
    running_nats,
    running_postgres,
    tls_programs,
)

OLDEST = OLDEST_POSTGRES // 10_000

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that the user of PostgreSQL can enter."""
    with TemporaryDirectory(prefix="ecolink-tls-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder / "authority")


@pytest.fixture(scope="module")
def other(folder: Path) -> Authority:
    """An authority that signed nothing that a server uses."""
    return Authority(folder / "other", "another authority")


@pytest.fixture(scope="module")
def certificates(folder: Path, authority: Authority) -> Path:
    return authority.issue(folder / "certificates", HOST)


@pytest.fixture(scope="module")
def postgres(folder: Path, certificates: Path) -> Iterator[PostgresUnderTest]:
    programs = tls_programs()
    if programs is None:
        pytest.skip(
            "no PostgreSQL 17 or later with TLS; on Debian 13, run `apt-get install postgresql`"
        )
    with running_postgres(folder / "postgres", programs, certificates) as running:
        yield running


@pytest.fixture(scope="module")
def nats(folder: Path, certificates: Path) -> Iterator[NatsUnderTest]:
    with running_nats(folder / "nats", certificates) as running:
        yield running


@pytest.fixture(scope="module")
def configured(
    folder: Path, postgres: PostgresUnderTest, nats: NatsUnderTest, authority: Authority
) -> Settings:
    return nats.settings.model_copy(
        update={
            "home": folder / "home",
            "database_url": postgres.url(),
            "owner_database_url": postgres.url(OWNER),
            "nats_ca": authority.file,
            "heartbeat_seconds": 0.2,
            "meter_minute_seconds": 5,
            "test_payments": True,
        }
    )


@pytest.fixture(scope="module")
def ecolink(configured: Settings, folder: Path) -> Iterator[EcoLinkUnderTest]:
    configured.home.mkdir()
    with running_ecolink(folder, configured) as running:
        yield running


def test_a_job_uses_tls_for_every_connection(
    ecolink: EcoLinkUnderTest,
    postgres: PostgresUnderTest,
    nats: NatsUnderTest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    dataset = ecolink.dataset(tmp_path, examples=40)
    path = ecolink.approve(dataset, epochs=3, gradient_accumulation=1)
    ecolink.await_events(path, "TrainingStarted", 1)
    sessions = postgres.sessions()
    job = ecolink.await_end(path)
    assert job["status"] == "registered"

    names = {name for name, _ in sessions}
    assert {f"ecolink {process}" for process in PROCESSES} <= names
    assert [name for name, tls in sessions if not tls] == []
    logins = postgres.logins()
    assert len(logins) > len(sessions)
    assert [each for each in logins if "SSL enabled" not in each] == []

    found = nats.connections()
    trainer = f"trainer {UUID(path.rpartition('-')[2])} 1"
    names = {each.get("name") for each in found}
    assert {*BUS_ACCESS, trainer} <= names
    # A connection has a name when the server has read its first line, which follows the handshake.
    # A client on a busy machine may end the connection before that, and try again.
    assert [each for each in found if each.get("name") and not each.get("tls_version")] == []
    for name, value in environment(ecolink.settings).items():
        monkeypatch.setenv(name, value)
    assert "Nothing differs" in command("audit", "verify", "--artifacts")
    text = f"{len(logins)} sessions of PostgreSQL and {len(found)} connections to NATS"
    record_property("measured", f"one job over TLS: {text}, all with TLS")


def test_a_wrong_authority_or_host_is_refused(
    configured: Settings, postgres: PostgresUnderTest, other: Authority
) -> None:
    assert configured.nats_url is not None
    elsewhere = configured.nats_url.replace(HOST, "localhost")
    wrong: dict[str, dict[str, object]] = {
        "Add sslrootcert=FILE with the certificate of the server's authority to "
        "ECOLINK_DATABASE_URL": database(postgres, authority=other.file),
        "Use a host name of the certificate in ECOLINK_DATABASE_URL": database(
            postgres, host="localhost"
        ),
        "Set ECOLINK_NATS_CA to a file": {"nats_ca": other.file},
        "Use a host name of the certificate in ECOLINK_NATS_URL": {"nats_url": elsewhere},
    }
    for problem, change in wrong.items():
        settings = configured.model_copy(update=change)
        failed = [each.text for each in server_checks(settings) if each.level is Level.FAILED]
        assert len(failed) == 1
        assert problem in failed[0]
        migration = subprocess.run(
            (sys.executable, "-P", "-m", "deploy.migrate"),
            env=os.environ | environment(settings),
            capture_output=True,
            text=True,
            check=False,
        )
        assert migration.returncode == 1
        assert problem in migration.stderr
        assert "Traceback" not in migration.stderr


def database(postgres: PostgresUnderTest, **change: Any) -> dict[str, object]:
    """Return settings with changed URLs of the database."""
    urls = ("database_url", OPERATOR_ROLE), ("owner_database_url", OWNER)
    return {name: postgres.url(role, **change) for name, role in urls}


def test_a_session_without_tls_is_refused(postgres: PostgresUnderTest) -> None:
    plain = postgres.url().partition("?")[0] + "?sslmode=disable"
    with pytest.raises(psycopg.OperationalError) as refused:
        psycopg.connect(plain)
    assert "Add sslmode=verify-full" in (tls_fix(refused.value) or "")
