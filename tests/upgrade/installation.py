"""An installation whose processes are those of several releases, on one database, bus and store.

A reverse proxy with one address stands before the gateways. Its clients start jobs, pay, chat and
read pages while processes are replaced. Each process runs through `tests.chaos.entry` of its own
release, which shortens minutes and leases and records facts for the oracle.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

import httpx
import psutil
from psycopg.rows import dict_row

from deploy.bus_access import BUS_ACCESS
from deploy.database_roles import ACCESS, role_of
from deploy.local import stack
from deploy.local.child import tethered
from deploy.local.home import Home
from deploy.local.pods import living_pods
from deploy.local.ports import free_port
from deploy.processes import PROCESSES, environment
from infrastructure.bus.event_handlers import HANDLERS
from infrastructure.bus.streams import OPERATOR
from infrastructure.postgres.leadership import SESSION_NAME
from infrastructure.settings import Settings
from tests.bus_administrator import as_administrator
from tests.chaos.chats import Chats
from tests.chaos.facts import FOLDER
from tests.chaos.records import Connection, Place, Records, Row, read
from tests.chaos.rig import Customer, Template, settings_of
from tests.chaos.watcher import Watcher
from tests.chaos.workload import Workload
from tests.gate import Gate
from tests.upgrade.releases import Release

T = TypeVar("T")

SERVICES = tuple(PROCESSES)


DEADLINE_SECONDS = 300.0
"""Longest wait for anything. The machine may be busy."""

END_SECONDS = 60.0
"""Time in which a process must end after SIGTERM."""

PAGES = ("/fine-tune", "/models", "/billing")
"""Pages that a browser reads all the time."""

READ_TO = """
SELECT name, min(position) AS position FROM (
    SELECT 'projector' AS name, position FROM projection_positions WHERE name = ANY(%s)
    UNION ALL SELECT application_name, notification_id FROM ecolink_tracking
) AS known WHERE name = %s GROUP BY name
"""


@dataclass(frozen=True)
class Running:
    """A process of a service."""

    service: str
    release: Release
    process: subprocess.Popen[bytes]
    port: int | None = None
    """Port on which a gateway or a serving process listens."""

    def end(self) -> None:
        """Ask the process to end, and wait. Fail if it does not."""
        self.process.terminate()
        self.process.wait(END_SECONDS)


@dataclass(frozen=True)
class Replaced:
    """The replacement of a process."""

    service: str
    release: str
    lead_seconds: float
    """From the end of the old process until the new one leads, or serves the proxy."""
    work_seconds: float
    """From the end of the old process until the new one has handled the events of before. Of a
    gateway, the time in which the old process ended its requests.
    """

    def __str__(self) -> str:
        return (
            f"{self.service:<10}{self.release:<6}{self.lead_seconds:>8.2f}{self.work_seconds:>8.2f}"
        )


class Browser:
    """A signed-in browser that reads pages, and keeps what it could not read."""

    def __init__(self, url: str, customer: Customer) -> None:
        self._url, self._customer = url, customer
        self.read = 0
        self.failures: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Sign in and start to read."""
        self._client = httpx.Client(base_url=self._url, timeout=60, headers={"origin": self._url})
        found = self._client.post("/sign-in", data={"api_key": self._customer.key})
        assert found.status_code == httpx.codes.SEE_OTHER, found.text
        self._thread.start()

    def end(self) -> None:
        """Read no more."""
        self._ended.set()
        self._thread.join(120)
        self._client.close()

    def _run(self) -> None:
        number = 0
        while not self._ended.wait(0.2):
            page = PAGES[number % len(PAGES)]
            number += 1
            try:
                found = self._client.get(page)
            except httpx.HTTPError as error:
                self.failures.append(f"{page}: {error!r}")
                continue
            self.read += 1
            if found.status_code != httpx.codes.OK:
                self.failures.append(f"{page}: {found.status_code}")


class Installation:
    """The processes of some services, and what their clients do.

    Use it from the thread that started it.
    """

    def __init__(
        self, template: Template, directory: Path, services: Sequence[str] = SERVICES
    ) -> None:
        self.directory, self.customers, self.services = directory, template.customers, services
        self.control, self.logs = directory / "control", directory / "logs"
        for folder in (self.logs, self.control / "facts", self.control / "writes"):
            folder.mkdir(parents=True)
        self.home = directory / "home"
        subprocess.run(["cp", "-a", str(template.home), str(self.home)], check=True)
        self.gate = Gate(0)
        self._serving_ports = (free_port(), free_port())
        self.running: dict[str, Running] = {}
        self._waiting: dict[str, Running] = {}
        self.replaced: list[Replaced] = []
        self.settings = settings_of(self.home)
        self._passwords: Mapping[str, str] = {}

    @contextmanager
    def up(self, release: Release) -> Iterator[None]:
        """Run the servers and all processes of a release until the end of the block."""
        with ExitStack() as running, _importing_from(release):
            started = running.enter_context(stack.up(self.settings, {}))
            self.gate.open()
            running.callback(self.gate.close)
            urls = ",".join(f"http://127.0.0.1:{port}" for port in self._serving_ports)
            passwords = Home(self.home).passwords()
            self._passwords = passwords.database_roles
            known = {"serving_url": urls, "serving_secret": passwords.serving}
            known |= {"gateway_url": self.gate.url, "public_url": None}
            self.settings = started.settings.model_copy(update=known)
            running.callback(self._end_all)
            for service in self.services:
                self.running[service] = self._started(service, release)
            for service in self.services:
                if service != "gateway":
                    self._await_lead(self.running[service])
            self._serve_through(self.running["gateway"])
            yield

    def migrate(self, release: Release) -> None:
        """Run the migration of a release while the processes of another one work."""
        head = self.head()
        release.run("deploy.migrate", variables=environment(self.settings))
        self.wait(lambda: self.head() > head)

    def command(self, release: Release, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run an operator's command of a release."""
        code = "import sys; from deploy.cli import main; sys.exit(main())"
        return subprocess.run(
            (*release.argv("-")[:-2], "-c", code, *arguments),
            cwd=self.directory,
            env=os.environ | environment(self.settings) | release.variables,
            capture_output=True,
            text=True,
            check=False,
        )

    def start_beside(self, services: Sequence[str], release: Release) -> None:
        """Start processes of a release beside those that run. They wait until they are needed."""
        for service in services:
            self._waiting[service] = self._started(service, release)

    def replace(self, service: str, release: Release) -> None:
        """Start a process of a release beside the one that runs, and then end that one."""
        old, new = self.running[service], self._waiting.pop(service, None)
        new = new or self._started(service, release)
        if service == "gateway":
            self._replace_gateway(old, new)
        else:
            self._replace_leader(old, new)
        self.running[service] = new

    def _replace_gateway(self, old: Running, new: Running) -> None:
        self._serve_through(new)
        began = time.time()
        old.end()
        self._note(new, began, began, time.time())

    def _replace_leader(self, old: Running, new: Running) -> None:
        # A projector of another shape ends on its own when a suitable one waits.
        self.wait(lambda: old.process.poll() is not None or self._waits(new))
        head, began = self.head(), time.time()
        old.end()
        led_at = self._await_lead(new)
        self.wait(lambda: self._has_handled(new.service, head))
        self._note(new, began, led_at, time.time())

    def _note(self, new: Running, began: float, led_at: float, worked_at: float) -> None:
        lead, work = max(0.0, led_at - began), max(0.0, worked_at - began)
        self.replaced.append(Replaced(new.service, new.release.name, lead, work))

    def head(self) -> int:
        """Return the position of the newest event."""
        with self.connected() as connection:
            row = connection.execute(
                "SELECT max(notification_id) AS head FROM ecolink_events"
            ).fetchone()
        assert row is not None
        return row["head"]

    def events(self, condition: str = "true") -> list[Row]:
        """Return the events that meet an SQL condition on `topic` and `state`."""
        query = (
            "SELECT * FROM (SELECT notification_id AS id, topic, "
            "convert_from(state, 'UTF8')::jsonb AS state FROM ecolink_events) AS event "
            f"WHERE {condition} ORDER BY id"
        )
        with self.connected() as connection:
            return connection.execute(query.encode()).fetchall()

    def _has_handled(self, service: str, head: int) -> bool:
        """Return True if a service has handled all events up to `head`, or has no position."""
        if service not in (*HANDLERS, "projector"):
            return True
        names = [name for name in self._names() if name != "serving"]
        with self.connected() as connection:
            row = connection.execute(READ_TO, [names, service]).fetchone()
        return row is not None and row["position"] >= head

    def _names(self) -> list[str]:
        with self.connected() as connection:
            rows = connection.execute("SELECT name FROM projection_positions").fetchall()
        return [row["name"] for row in rows]

    def _waits(self, new: Running) -> bool:
        """Return True if a process waits for the lead of its service."""
        query = (
            "SELECT count(*) AS count FROM pg_stat_activity "
            "WHERE application_name = %s AND state = 'idle'"
        )
        with self.connected() as connection:
            row = connection.execute(query.encode(), [SESSION_NAME % new.service]).fetchone()
        self._require_running(new)
        return row is not None and row["count"] >= 2

    def _await_lead(self, wanted: Running) -> float:
        """Wait until a process leads. Return the Unix time since when it does."""

        def led_at() -> float | None:
            self._require_running(wanted)
            with self.connected() as connection:
                row = connection.execute(
                    "SELECT pid, since FROM leaderships WHERE name = %s", [wanted.service]
                ).fetchone()
            leads = row is not None and row["pid"] == self._pid(wanted)
            return row["since"].timestamp() if row is not None and leads else None

        since = self.wait(led_at)
        assert since is not None
        return since

    def _pid(self, running: Running) -> int:
        """Return the process ID, which the tether keeps when it becomes the program."""
        return running.process.pid

    def _require_running(self, running: Running) -> None:
        code = running.process.poll()
        log = self._log(running.service, running.release)
        assert code is None, f"{running.service} ended with {code}:\n{_tail(log)}"

    def _serve_through(self, gateway: Running) -> None:
        """Wait until a gateway is healthy, and let the proxy use it."""

        def healthy() -> bool:
            self._require_running(gateway)
            with suppress(httpx.HTTPError):
                return httpx.get(f"http://127.0.0.1:{gateway.port}/healthz", timeout=5).is_success
            return False

        self.wait(healthy)
        assert gateway.port is not None
        self.gate.turn_to(gateway.port)
        # Test payments are possible only without a proxy.
        url = f"http://127.0.0.1:{gateway.port}"
        self.settings = self.settings.model_copy(update={"gateway_url": url})

    def _started(self, service: str, release: Release) -> Running:
        settings = self._settings_of(service)
        argv = release.argv("deploy.run", f"{service}=tests.chaos.entry:{service}")
        variables = environment(settings) | release.variables
        variables |= {FOLDER: str(self.control), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        with self._log(service, release).open("ab") as log:
            process = subprocess.Popen(
                tethered(argv),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | variables,
                start_new_session=True,
            )
        ports = {"gateway": settings.gateway_port, "serving": settings.serving_port}
        return Running(service, release, process, ports.get(service))

    def _settings_of(self, service: str) -> Settings:
        """Return the settings of a process: its own database role, and its own port."""
        assert self.settings.database_url is not None
        role = role_of(service)
        parts = urlsplit(self.settings.database_url)
        host = parts.netloc.rpartition("@")[2]
        netloc = f"{role}:{self._passwords[role]}@{host}"
        user = service if service in BUS_ACCESS else OPERATOR
        known: dict[str, object] = {"owner_database_url": None}
        known["nats_credentials"] = Home(self.home).nats_credentials(user)
        known["database_url"] = urlunsplit(parts._replace(netloc=netloc))
        if not ACCESS[service].reads_snapshots:
            known["snapshot_secret"] = None
        if service == "gateway":
            known["gateway_port"] = free_port()
        if service == "serving":
            used = self.running.get("serving")
            known["serving_port"] = next(
                port for port in self._serving_ports if used is None or port != used.port
            )
        return self.settings.model_copy(update=known)

    def _log(self, service: str, release: Release) -> Path:
        return self.logs / f"{service}-{release.name}.log"

    def trainers(self, release: Release) -> int:
        """Return the number of running pods whose trainer is of a release."""
        found = 0
        for shim in living_pods(Home(self.home)):
            with suppress(psutil.Error):
                found += shim.environ().get("PYTHONPATH") == str(release.tree)
        return found

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """Yield a connection of the operator's role."""
        assert self.settings.database_url is not None
        with Connection.connect(
            self.settings.database_url, autocommit=True, row_factory=dict_row
        ) as connection:
            yield connection

    def wait(self, condition: Callable[[], T]) -> T:
        """Return the first true result of a condition. Fail after DEADLINE_SECONDS."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not (result := condition()):
            assert time.monotonic() < deadline, f"still {result!r} after {DEADLINE_SECONDS} s"
            time.sleep(0.1)
        return result

    def records(self, unsettled: str) -> Records:
        """Read what the run left behind, for the oracle."""
        settings = as_administrator(self.settings)
        assert settings.database_url is not None
        assert settings.nats_url is not None
        assert settings.nats_credentials is not None
        place = Place(
            settings.database_url,
            settings.nats_url,
            settings.nats_credentials,
            self.home / "artifacts",
            self.control,
        )
        return read(place, [], unsettled)

    def _end_all(self) -> None:
        every = [*self.running.values(), *self._waiting.values()]
        for each in every:
            each.process.terminate()
        for each in every:
            with suppress(subprocess.TimeoutExpired):
                each.process.wait(END_SECONDS)
            each.process.kill()
            each.process.wait()


@dataclass
class Clients:
    """All clients of an installation: jobs, chats and a browser."""

    installation: Installation
    seed: str
    watcher: Watcher = field(init=False)
    chats: Chats = field(init=False)
    browser: Browser = field(init=False)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        url = self.installation.gate.url
        self.watcher = Watcher(self.installation)
        self.workload = Workload(self.installation, self.watcher, self.seed)
        self.chats = Chats(f"{url}/v1", self.installation.customers[1])
        self.browser = Browser(url, self.installation.customers[2])
        self._watching = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            self.watcher.look()

    @contextmanager
    def busy(self) -> Iterator[Clients]:
        """Start jobs, chat and read pages during the block. Then let all jobs end."""
        self._watching.start()
        self.workload.start()
        self.browser.start()
        self.chats.start()
        try:
            yield self
            self.chats.end()
            self.workload.finish()
            self.installation.wait(lambda: self.workload.done)
            self.installation.wait(self._settled)
        finally:
            self.browser.end()
            self.chats.end()
            self.workload.abandon()
            self._ended.set()
            self._watching.join()

    def _settled(self) -> bool:
        return not self.watcher.open_meters and self.watcher.lag() == 0

    def await_progress(self) -> None:
        """Wait until a job saves a checkpoint or ends."""
        before = self.trained
        self.installation.wait(lambda: self.trained > before)

    @property
    def trained(self) -> int:
        """Number of checkpoints and finished jobs so far, which only grows while jobs progress."""
        return sum(self.watcher.progress)


@contextmanager
def _importing_from(release: Release) -> Iterator[None]:
    """Let child processes of this one import the packages of a release."""
    before = os.environ.get("PYTHONPATH")
    os.environ |= release.variables
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def template_of(release: Release, directory: Path) -> Template:
    """Make a home with a base model and accounts, by the programs of a release."""
    code = (
        "import sys; from pathlib import Path; from tests.chaos.rig import Template; "
        "Template.at(Path(sys.argv[1]))"
    )
    release.python(code, str(directory))
    return Template.at(directory)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-40:])
