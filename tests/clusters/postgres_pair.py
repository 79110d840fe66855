"""A primary and a standby of PostgreSQL, from the programs of the embedded server."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from deploy.database_roles import OPERATOR_ROLE
from deploy.local.child import tethered
from deploy.local.home import Home, Passwords
from deploy.local.ports import free_port
from deploy.local.postgres import CONFIGURATION, DATABASE, OWNER, PostgresServer, binaries
from deploy.local.server_user import server_user
from deploy.migrate import migrate
from infrastructure.settings import Settings
from tests.polling import eventually

STANDBY = "standby"


class Node:
    """One server of the pair. `url` is that of its maintenance database as a superuser."""

    def __init__(self, folder: Path, passwords: Passwords) -> None:
        folder.mkdir(mode=0o755)
        self.server = PostgresServer(Home(folder), free_port(), passwords)
        self.port, self._data = self.server.port, self.server.data
        self._user = server_user(self._data, binaries() / "postgres")
        self._log = folder / "log"
        self.url = f"postgresql://{OWNER}:{passwords.postgres_owner}@127.0.0.1:{self.port}/postgres"

    def start(self, *options: str) -> None:
        """Start the server, and wait until it accepts connections."""
        binary = str(binaries() / "postgres")
        settings = [f"--{name}={value}" for name, value in CONFIGURATION.items()]
        command = (binary, "-D", str(self._data), "-p", str(self.port), *settings, *options)
        with self._log.open("ab") as log:
            subprocess.Popen(tethered(command, self._user.spec), stdout=log, stderr=log)
        eventually(self.server.ready)

    def kill(self) -> None:
        """Kill all processes of the server, like a power cut."""
        self.server.clear()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze all processes of the server during the block."""
        number = int((self._data / "postmaster.pid").read_text().splitlines()[0])
        postmaster = psutil.Process(number)
        postmaster.suspend()  # first, so that it starts no more processes
        processes = [postmaster, *postmaster.children(recursive=True)]
        for each in processes:
            each.suspend()
        try:
            yield
        finally:
            for each in processes:
                with suppress(psutil.NoSuchProcess):
                    each.resume()

    def copy(self, primary: Node) -> None:
        """Make this server's data a copy of the primary's, which this server follows."""
        source = primary.url.replace("/postgres", f"/postgres?application_name={STANDBY}")
        command = (
            *(str(binaries() / "pg_basebackup"), "-D", str(self._data), "-d", source),
            *("-R", "-X", "stream", "--checkpoint=fast"),
        )
        self._data.mkdir(mode=0o700)
        self._user.own(self._data)
        subprocess.run(tethered(command, self._user.spec), check=True)

    def execute(self, *statements: sql.SQL) -> list[tuple[object, ...]]:
        """Execute statements as a superuser. Return the rows of the last one."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursors = [connection.execute(each) for each in statements]
            return cursors[-1].fetchall() if cursors[-1].description else []

    def set(self, name: str, value: str) -> None:
        """Change a setting of the running server."""
        change = sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), value)
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(change)
            connection.execute("SELECT pg_reload_conf()")

    def promote(self) -> None:
        """Make the standby a primary, and wait until it is one."""
        self.execute(sql.SQL("SELECT pg_promote(true, 60)"))


class Pair:
    """A primary and a standby with a migrated database, and settings that name both."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)
        passwords = Passwords()
        self.primary = Node(folder / "one", passwords)
        self.standby = Node(folder / "two", passwords)
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in (self.primary, self.standby))
        roles = passwords.database_roles
        self.settings = Settings(
            home=folder / "home",
            snapshot_secret=passwords.snapshots,
            database_url=f"postgresql://{OPERATOR_ROLE}:{roles[OPERATOR_ROLE]}@{hosts}/{DATABASE}",
            owner_database_url=f"postgresql://{OWNER}:{passwords.postgres_owner}@{hosts}/{DATABASE}",
        )

    def start(self, *, synchronous: bool) -> None:
        """Start both servers. If `synchronous`, each commit waits for the standby."""
        self.primary.server.initialize()
        self.primary.start()
        self.primary.server.provision()
        self.standby.copy(self.primary)
        self.standby.start()
        if synchronous:
            self.primary.set("synchronous_standby_names", STANDBY)
        eventually(lambda: self.replication_state() == ("sync" if synchronous else "async"))
        migrate(self.settings)

    def replication_state(self) -> object:
        """Return how the standby is attached to the primary: `sync`, `async` or None."""
        rows = self.primary.execute(sql.SQL("SELECT sync_state FROM pg_stat_replication"))
        return rows[0][0] if rows else None

    def detach(self) -> None:
        """Stop the standby's receiver, so that it lacks later commits."""
        self.standby.set("primary_conninfo", "")
        eventually(lambda: self.replication_state() is None)

    def fail_over(self) -> None:
        """Kill the primary, and promote the standby."""
        self.primary.kill()
        self.standby.promote()

    def only(self, node: Node) -> Settings:
        """Return settings that name only one of the servers."""
        (other,) = {self.primary, self.standby} - {node}
        urls = {
            name: url.replace(f"127.0.0.1:{other.port}", "").replace("@,", "@").replace(",/", "/")
            for name in ("database_url", "owner_database_url")
            if (url := getattr(self.settings, name))
        }
        return self.settings.model_copy(update=urls)

    def stop(self) -> None:
        """Kill both servers."""
        for each in (self.primary, self.standby):
            with suppress(FileNotFoundError):
                each.kill()


@contextmanager
def postgres_pair(folder: Path, *, synchronous: bool) -> Iterator[Pair]:
    """Run a pair in a folder that every user may enter."""
    pair = Pair(folder)
    try:
        pair.start(synchronous=synchronous)
        yield pair
    finally:
        pair.stop()
