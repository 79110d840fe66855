"""The product under test: its stack, standby processes and control directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Protocol

import psutil

from deploy.demo.account import acting_for_the_demo, fresh_account
from deploy.demo.preparing import await_deployment
from deploy.local import stack
from deploy.local.child import tethered
from deploy.local.home import Home
from deploy.local.pods import living_pods
from deploy.local.ports import free_port
from deploy.local.state import recorded_state
from deploy.processes import PROCESSES, environment
from domain.use_cases.catalog import Cataloging, gpu_type_change
from gateway.cli.client import Endpoint
from infrastructure.artifacts.store import Artifacts
from infrastructure.settings import Settings
from tests.builders.examples import revision
from tests.builders.tiny_model import make_tiny_model
from tests.chaos.disks import Disk
from tests.chaos.facts import FOLDER, REAL, FactFile
from tests.chaos.failpoints import Arming
from tests.chaos.network import STANDBY, Network, is_possible
from tests.running import EcoLinkUnderTest, PatientClient

ROOT = Path(__file__).parents[2]

SERVICES = [name for name in PROCESSES if name != "serving"]
"""Processes that take part in a job. Serving runs only if leaders fail over."""

STANDBYS = NETWORKED = ("relay", "projector", "billing", "scheduler")
"""Services with a standby, and with a network of their own, which their trainers share."""

LEADERS = (
    *(*STANDBYS, "sealer", "datasets", "webhooks", "alerts", "serving"),
    *("exporter", "trackers", "synthesis"),
)
"""Services whose leaders fail over. In this mode, each process has a network of its own."""

HOME_MIB, ARTIFACTS_MIB = 1024, 128
"""Sizes of the disks of a home and of its artifacts."""

GPUS = 4
MICROS_PER_HOUR = 36_000_000
"""Price of a job: a cent for each second."""

ACCOUNTS = 3

WITNESS_SECONDS = 0.2
"""Time between two looks at the running pods."""


def settings_of(home: Path) -> Settings:
    """Return settings with short minutes and leases. A real trainer takes longer to start."""
    return Settings(
        home=home,
        test_payments=True,
        heartbeat_seconds=0.2,
        meter_minute_seconds=3,
        lease_seconds=12,
        lease_extension_seconds=3,
        grace_seconds=4,
        trainer_silence_timeout_seconds=120 if REAL in os.environ else 25,
        hung_seconds=30,
        warm_trainers=0,
        disk_low_bytes=0,
        disk_critical_bytes=0,
    )


@dataclass(frozen=True)
class Customer:
    """An account of the workload: its ID, API key and dataset."""

    account_id: str
    key: str
    dataset: str


@dataclass(frozen=True)
class Template:
    """A stopped home with a base model, a catalog and accounts, from which each round starts."""

    home: Path
    customers: tuple[Customer, ...]

    @classmethod
    def at(cls, directory: Path) -> Template:
        """Return the template in a directory. Make it if there is none."""
        directory = directory.resolve()
        known = directory / "customers.json"
        if not known.exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(mode=0o755, parents=True)
            made = cls._make(directory)
            known.write_text(json.dumps([asdict(each) for each in made.customers]))
        customers = tuple(Customer(**each) for each in json.loads(known.read_text()))
        return cls(directory / "home", customers)

    @classmethod
    def _make(cls, directory: Path) -> Template:
        home = directory / "home"
        home.mkdir(mode=0o755)
        model = make_tiny_model(directory / "tiny")
        with stack.up(settings_of(home)) as started:
            settings = started.settings
            manifest = Artifacts(settings.artifacts).put_directory("models/tiny", model)
            with acting_for_the_demo(settings) as use_cases:
                use_cases.import_base_model("tiny", revision(manifest_sha256=manifest.sha256))
                catalog = Cataloging(use_cases.log)
                catalog.change(gpu_type_change("cpu", {"micros_per_hour": MICROS_PER_HOUR}))
                catalog.change(lambda found: found.declare_capacity("local", "cpu", GPUS))
            await_deployment(settings, "tiny")
            customers = tuple(_customer(settings, directory) for _ in range(ACCOUNTS))
        (home / "run" / "stack.json").unlink()
        return cls(home, customers)


def _customer(settings: Settings, directory: Path) -> Customer:
    account = fresh_account(settings, "customer")
    assert settings.gateway_url is not None
    with PatientClient(Endpoint(settings.gateway_url, account.key)) as client:
        dataset = EcoLinkUnderTest(settings, client, account).dataset(directory, examples=20)
    return Customer(str(account.account_id), account.key, dataset)


class UnderTest(Protocol):
    """A running product with accounts and a control directory."""

    @property
    def settings(self) -> Settings:
        """Settings of a process, with the addresses of all servers."""
        ...

    @property
    def customers(self) -> tuple[Customer, ...]:
        """The accounts."""
        ...

    @property
    def control(self) -> Path:
        """Directory with facts."""
        ...


class Standby:
    """A second instance of a service, which takes over if the first one hangs or is cut off."""

    def __init__(self, name: str, rig: Rig) -> None:
        self.name, self._rig = name, rig
        self.process: subprocess.Popen[bytes] | None = None
        self._started = 0.0

    def keep_running(self) -> None:
        """Start the process, unless it runs or was started a moment ago."""
        if self.process is not None and self.process.poll() is None:
            return
        if time.monotonic() - self._started < 1.0:
            return
        credentials = Home(self._rig.home).nats_credentials(self.name)
        own = {"owner_database_url": None, "nats_credentials": credentials}
        settings = self._rig.settings.model_copy(update=own)
        argv = (sys.executable, "-P", "-m", "deploy.run", f"{self.name}={_target(self.name)}")
        with (self._rig.logs / f"{standby_of(self.name)}.log").open("ab") as log:
            self.process = subprocess.Popen(
                tethered(argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | environment(settings) | {"PYTHONUNBUFFERED": "1", STANDBY: "1"},
                start_new_session=True,
            )
        self._started = time.monotonic()

    def end(self) -> None:
        """Kill the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class Rig:
    """A running stack on a copy of the template. Use it from one thread, because children are
    tethered to the thread that starts them.
    """

    def __init__(self, template: Template, directory: Path, *, fails_over: bool = False) -> None:
        self._services = list(PROCESSES) if fails_over else SERVICES
        self._doubled = LEADERS if fails_over else STANDBYS
        self._networked = (*LEADERS, *map(standby_of, LEADERS)) if fails_over else NETWORKED
        self.control, self.customers = directory / "control", template.customers
        self.logs = directory / "logs"  # of the standbys, and at the end of all processes
        self.logs.mkdir()
        self.disks: dict[str, Disk] = {}
        self.network: Network | None = None
        self._isolated = os.geteuid() == 0 and is_possible()
        self.home = directory / "disk" / "home"
        self._place(directory / "disk", template.home)
        for name in ("facts", "writes"):
            (self.control / name).mkdir(parents=True)
        self.arming = Arming(self.control)
        ports = {"postgres_port": free_port(), "nats_port": free_port()}
        local = {"webhook_networks": "127.0.0.0/8", "webhook_http": True}  # of the providers
        self._configured = settings_of(self.home).model_copy(update=ports | local)
        self.settings = self._configured
        self._standbys = [Standby(name, self) for name in self._doubled]
        self._running, self._ended = ExitStack(), Event()

    def _place(self, folder: Path, template: Path) -> None:
        """Copy the template. If this process may, put the home and its artifacts on small disks."""
        folder.mkdir()
        if self._isolated:
            self.disks["home"] = Disk.mounted(folder, HOME_MIB)
            self.disks["artifacts"] = Disk.mounted(self.home / "artifacts", ARTIFACTS_MIB)
        subprocess.run(["cp", "-a", f"{template}/.", str(self.home)], check=True)

    @contextmanager
    def up(self) -> Iterator[Rig]:
        """Run the stack during the block, and end every process at its end."""
        os.environ |= {FOLDER: str(self.control), "PYTHONPATH": str(ROOT)}
        try:
            if self._isolated:
                ports = (self._configured.postgres_port, self._configured.nats_port)
                self.network = Network(self._networked, ports)
            self._configured = self._with_serving(self._configured)
            self._start()
            Thread(target=self._witness, daemon=True).start()
            yield self
        finally:
            self._ended.set()
            self._end_standbys()
            self._running.close()
            if self.network is not None:
                self.network.close()
            shutil.copytree(self.home / "logs", self.logs, dirs_exist_ok=True)
            for disk in reversed(self.disks.values()):
                disk.unmount()

    def _with_serving(self, settings: Settings) -> Settings:
        """Return settings with the addresses of both serving processes, if they run."""
        if self.network is None or "serving" not in self._doubled:
            return settings
        port = free_port()
        hosts = [self.network.inside(each) for each in ("serving", standby_of("serving"))]
        urls = ",".join(f"http://{host}:{port}" for host in hosts)
        return settings.model_copy(update={"serving_port": port, "serving_url": urls})

    def _start(self) -> None:
        services = {name: _target(name) for name in self._services}
        started = self._running.enter_context(stack.up(self._configured, services))
        self.settings, self._supervisor = started.settings, started.supervisor

    def keep_standbys(self) -> None:
        """Start standby processes that do not run."""
        for each in self._standbys:
            each.keep_running()

    def _witness(self) -> None:
        """Write down which pods run now, until the stack ends."""
        files: dict[str, FactFile] = {}
        while not self._ended.wait(WITNESS_SECONDS):
            for path in (self.home / "pods").glob("*/pod.json"):
                with suppress(OSError, ValueError, psutil.Error):
                    pid, name = json.loads(path.read_bytes())["pid"], path.parent.name
                    if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                        continue
                    if name not in files:
                        files[name] = FactFile(self.control / "facts" / f"{name}.shim.jsonl")
                    files[name].write("pod")

    def _end_standbys(self) -> None:
        for each in self._standbys:
            each.end()

    def lose_power(self) -> None:
        """Kill all processes, and start the stack again on the same home."""
        self._end_standbys()
        self._supervisor.kill()  # ends its processes and their pods
        self._supervisor.wait()
        self._running.close()
        self._running = ExitStack()
        self._start()

    def process(self, name: str) -> psutil.Process | None:
        """Return the process that the supervisor runs under a name, or a standby."""
        if name.startswith("standby-"):
            standby = next(each for each in self._standbys if standby_of(each.name) == name)
            if standby.process is None or standby.process.poll() is not None:
                return None
            return psutil.Process(standby.process.pid)
        state = recorded_state(Home(self.home))
        children = state.children if state is not None else ()
        return next((each.process for each in children if each.name == name), None)

    def name_of(self, service: str, pid: int) -> str:
        """Return the name of the process of a service: the service's own, or its standby's."""
        standby = self.process(standby_of(service))
        return standby_of(service) if standby is not None and standby.pid == pid else service

    def shims(self) -> list[psutil.Process]:
        """Return the shims of the running pods, in the order in which they started."""
        return sorted(living_pods(Home(self.home)), key=lambda each: each.create_time())

    def trainers(self) -> list[psutil.Process]:
        """Return the trainers of the running pods, in the order in which they started."""
        found: list[psutil.Process] = []
        for shim in self.shims():
            with suppress(psutil.NoSuchProcess):
                found += shim.children()[:1]
        return found


def standby_of(service: str) -> str:
    """Return the name of the second process of a service."""
    return f"standby-{service}"


def _target(name: str) -> str:
    return f"tests.chaos.entry:{name}"
