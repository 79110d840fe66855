"""NATS and PostgreSQL servers that require TLS, with certificates of an authority of the test."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psycopg

from deploy.database_roles import OPERATOR_ROLE
from deploy.local.child import tethered
from deploy.local.home import Passwords, write_private
from deploy.local.nats import binary
from deploy.local.ports import free_port
from deploy.local.postgres import CONFIGURATION, DATABASE, OWNER, provision
from deploy.local.server_user import server_user
from deploy.nats_accounts import USERS, Certificates, NatsKeys, configuration
from infrastructure.postgres.database_url import OLDEST_POSTGRES
from infrastructure.settings import Settings
from tests.polling import eventually

HOST = "127.0.0.1"

DEBIAN = Path("/usr/lib/postgresql")
"""Folder with the programs of each major version, in packages of Debian."""


@dataclass(frozen=True)
class NatsUnderTest:
    """A running server. `settings` name it and the credentials, without an authority."""

    settings: Settings
    monitoring_port: int

    def connections(self) -> list[dict[str, Any]]:
        """Return the open connections of clients, and the closed ones."""
        asked = {"state": "all", "auth": "true", "limit": 10_000}
        url = f"http://{HOST}:{self.monitoring_port}/connz"
        return httpx.get(url, params=asked).raise_for_status().json()["connections"]


@contextmanager
def running_nats(
    folder: Path, certificates: Path | None, keys: NatsKeys | None = None
) -> Iterator[NatsUnderTest]:
    """Run a server with the accounts of production, and with TLS if it has certificates."""
    folder.mkdir()
    keys, port, monitoring, log = keys or NatsKeys(), free_port(), free_port(), folder / "log"
    config = folder / "nats.conf"
    tls = None if certificates is None else Certificates(certificates)
    config.write_text(configuration(keys, folder / "jetstream", port, certificates=tls))
    for user in USERS:
        write_private(folder / f"{user}.creds", keys.credentials(user))
    command = (str(binary()), "--config", str(config), "--log", str(log))
    process = subprocess.Popen(tethered((*command, "--http_port", str(monitoring))))
    try:
        eventually(lambda: log.exists() and "Server is ready" in log.read_text())
        known: dict[str, Any] = {"nats_url": f"tls://{HOST}:{port}", "nats_credentials": folder}
        known |= {"nats_trainer_seed": keys.trainers}
        yield NatsUnderTest(Settings(home=folder, **known), monitoring)
    finally:
        process.terminate()
        process.wait()


def tls_programs() -> Path | None:
    """Return the folder of a PostgreSQL with TLS, or None. The embedded one has no TLS."""
    found = (each for each in DEBIAN.glob("*/bin") if each.parent.name.isdecimal())
    for folder in sorted(found, key=lambda each: int(each.parent.name), reverse=True):
        programs = [folder / each for each in ("initdb", "postgres", "pg_config")]
        old = int(folder.parent.name) < OLDEST_POSTGRES // 10_000
        if old or not all(each.exists() for each in programs):
            continue
        shown = subprocess.run(
            (str(programs[-1]), "--configure"), capture_output=True, text=True, check=True
        )
        if re.search(r"--with-(ssl=)?openssl", shown.stdout):
            return folder
    return None


@dataclass(frozen=True)
class PostgresUnderTest:
    """A running server with the roles and the empty database of EcoLink."""

    port: int
    authority: Path
    passwords: Passwords
    log: Path

    def url(
        self,
        role: str = OPERATOR_ROLE,
        *,
        host: str = HOST,
        authority: Path | None = None,
        database: str = DATABASE,
    ) -> str:
        """Return a URL that verifies the server."""
        roles = self.passwords.database_roles | {OWNER: self.passwords.postgres_owner}
        verified = f"sslmode=verify-full&sslrootcert={quote(str(authority or self.authority))}"
        return f"postgresql://{role}:{roles[role]}@{host}:{self.port}/{database}?{verified}"

    def sessions(self) -> list[tuple[str, bool]]:
        """Return the name of each session in the database of EcoLink, and whether it uses TLS."""
        statement = """
            SELECT coalesce(nullif(application_name, ''), usename), ssl FROM pg_stat_ssl
            JOIN pg_stat_activity USING (pid) WHERE datname = %s AND client_addr IS NOT NULL
        """
        with psycopg.connect(self.url(OWNER, database="postgres")) as connection:
            return [(name, tls) for name, tls in connection.execute(statement, [DATABASE])]

    def logins(self) -> list[str]:
        """Return the log line of each session, also of those that have ended."""
        lines = self.log.read_text().splitlines()
        return [each for each in lines if "connection authorized: " in each]


@contextmanager
def running_postgres(
    folder: Path, programs: Path, certificates: Path
) -> Iterator[PostgresUnderTest]:
    """Run a server that accepts only TLS. Other users must be able to enter the folder."""
    folder.mkdir(mode=0o755)
    passwords, data, tls, log = Passwords(), folder / "data", folder / "tls", folder / "log"
    password_file = folder / "password"
    user = server_user(data, programs / "postgres")
    data.mkdir(mode=0o700)
    shutil.copytree(certificates, tls)
    write_private(password_file, passwords.postgres_owner)
    for each in (data, tls, password_file):
        user.own(each)
    initdb = (
        *(str(programs / "initdb"), "-D", str(data), "-U", OWNER, "--auth=scram-sha-256"),
        *(f"--pwfile={password_file}", "--encoding=UTF8", "--locale=C"),
    )
    subprocess.run(tethered(initdb, user.spec), check=True, stdout=subprocess.DEVNULL)
    (data / "pg_hba.conf").write_text(f"hostssl all all {HOST}/32 scram-sha-256\n")
    settings = CONFIGURATION | {"ssl": "on", "log_connections": "on"}
    settings |= {"ssl_cert_file": str(tls / "server.pem")}
    settings |= {"ssl_key_file": str(tls / "server-key.pem")}
    options = [f"--{name}={value}" for name, value in settings.items()]
    found = PostgresUnderTest(free_port(), certificates / "ca.pem", passwords, log)
    command = (str(programs / "postgres"), "-D", str(data), "-p", str(found.port), *options)
    with log.open("ab") as output:
        process = subprocess.Popen(
            tethered(command, user.spec, signal.SIGQUIT), stdout=output, stderr=output
        )
    try:
        maintenance = found.url(OWNER, database="postgres")
        eventually(lambda: _accepts(maintenance))
        provision(maintenance, passwords.database_roles)
        yield found
    finally:
        process.send_signal(signal.SIGINT)  # fast shutdown
        process.wait()


def _accepts(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True
