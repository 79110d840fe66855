"""The plan for one run of the stack: its servers, services, ports and URLs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Protocol

from deploy.bus_access import BUS_ACCESS
from deploy.database_roles import ACCESS, OPERATOR_ROLE, role_of
from deploy.local.child import Program
from deploy.local.errors import StackError
from deploy.local.hang_detection import Check, Heartbeat, Probe, healthz
from deploy.local.home import Home
from deploy.local.nats import NatsServer
from deploy.local.ports import free_port, reserve
from deploy.local.postgres import PostgresServer
from deploy.local.state import recorded_state
from deploy.migrate import SINGLE_MACHINE
from deploy.processes import (
    PROCESSES,
    environment,
    grouped,
    separate_roles,
    shared_variables,
)
from infrastructure.bus.streams import OPERATOR
from infrastructure.checks.machine import require_extras
from infrastructure.extensions import InvalidSetting, check_settings
from infrastructure.extras import MissingExtra
from infrastructure.settings import Settings

LISTENERS = ("gateway", "serving")
DEFAULT_PORT = 8000
"""Port of the gateway."""

PROBE_SECONDS = 10.0
POD_MARGIN_SECONDS = 5.0  # added to the trainer's grace period for the last checkpoint


class Server(Protocol):
    """An embedded server."""

    @property
    def program(self) -> Program:
        """Program for the supervisor to run."""
        ...

    def initialize(self) -> None:
        """Create the server's files. The supervisor calls this before the first start in a run."""
        ...

    def provision(self) -> None:
        """Create the server's content. The supervisor calls this when the server is ready."""
        ...


@dataclass(frozen=True)
class Plan:
    """The settings with all URLs and ports filled in, and the programs in start order."""

    settings: Settings
    servers: tuple[Server, ...]
    migration: Program  # must end before the services start
    services: tuple[Program, ...]

    @property
    def pod_stop_seconds(self) -> float:
        """Seconds that a local pod may take to stop."""
        return self.settings.grace_seconds + POD_MARGIN_SECONDS


def make_plan(home: Home, settings: Settings, services: Mapping[str, str]) -> Plan:
    """Return a plan with ports and URLs. A server with a configured URL is not embedded.

    A port that is not configured is reused from the last run if it is still free. Raise StackError
    for invalid settings, and for a configured port that another program uses.
    """
    try:
        check_settings(settings)
        require_extras(settings)
    except (InvalidSetting, MissingExtra) as error:
        raise StackError(str(error)) from error
    previous = recorded_state(home)
    before = previous.settings if previous else settings
    passwords = home.passwords()
    servers: list[Server] = []
    postgres: PostgresServer | None = None
    known: dict[str, object] = {"home": home.root, "artifacts_url": settings.artifacts}
    known |= {"snapshot_secret": settings.snapshot_secret or passwords.snapshots}
    if settings.database_url is None:
        port = settings.postgres_port or free_port(before.postgres_port)
        postgres = PostgresServer(home, port, passwords, settings.hung_seconds)
        servers.append(postgres)
        known |= {"postgres_port": port, "database_url": postgres.url_of(OPERATOR_ROLE)}
        known |= {"owner_database_url": postgres.owner_url}
    if settings.nats_url is None:
        port = settings.nats_port or free_port(before.nats_port)
        nats = NatsServer(home, port, passwords, settings.hung_seconds)
        servers.append(nats)
        known |= {"nats_port": port, "nats_url": nats.url}
        known |= {"nats_credentials": home.nats_credentials(OPERATOR)}
        known |= {"nats_trainer_seed": passwords.nats.trainers, "nats_trainer_account": None}
    known |= _listening(settings, before, services)
    if "serving" in services:
        known |= {"serving_secret": settings.serving_secret or passwords.serving}
    if settings.clock_speed != 1.0 and settings.clock_origin is None:
        # All processes and later runs share this origin, so stored times are never in the future.
        known |= {"clock_origin": before.clock_origin or datetime.now(UTC)}
    known |= {"supervisor_pid": os.getpid()}
    filled = settings.model_copy(update=known)
    bus = home if settings.nats_url is None else None
    migration = Program(
        name="migrate",
        argv=(sys.executable, "-P", "-m", "deploy.migrate", SINGLE_MACHINE),
        environment=os.environ | environment(filled),
        restarts=False,
        forks=True,
    )
    return Plan(
        settings=filled,
        servers=tuple(servers),
        migration=migration,
        services=tuple(
            _service(
                process,
                {name: services[name] for name in names},
                {name: _own_settings(name, filled, postgres, bus) for name in names},
            )
            for process, names in _processes(services, settings).items()
        ),
    )


def _processes(services: Mapping[str, str], settings: Settings) -> dict[str, tuple[str, ...]]:
    """Return the roles of each process. A role with a callable of its own shares none."""
    try:
        separate = separate_roles(settings)
    except ValueError as error:
        raise StackError(str(error)) from error
    replaced = {name for name, target in services.items() if target != PROCESSES.get(name)}
    return grouped(services, separate | replaced)


def _own_settings(
    name: str, settings: Settings, postgres: PostgresServer | None, bus: Home | None
) -> Settings:
    """Return the settings of a service: its own database role, and no secrets of other services.

    `bus` is the home with the credentials of the embedded NATS server, or None without one.
    """
    known: dict[str, object] = {"owner_database_url": None}
    if bus is not None:
        known["nats_credentials"] = bus.nats_credentials(name if name in BUS_ACCESS else OPERATOR)
    if name in PROCESSES and name not in BUS_ACCESS:
        known["nats_credentials"] = None
    if postgres is not None:
        known["database_url"] = postgres.url_of(role_of(name))
    if name in ACCESS and not ACCESS[name].reads_snapshots:
        known["snapshot_secret"] = None
    if name != "scheduler":
        known["nats_trainer_seed"] = None
    return settings.model_copy(update=known)


def _listening(
    settings: Settings, before: Settings, services: Mapping[str, str]
) -> dict[str, object]:
    """Return the ports and URLs of the services that serve HTTP."""
    known: dict[str, object] = {}
    configured = settings.serving_url
    for name in (each for each in LISTENERS if each in services):
        host = getattr(settings, f"{name}_host")
        port = _port(f"{name}_port", host, settings, before)
        known |= {f"{name}_port": port, f"{name}_url": f"http://{_reachable(host)}:{port}"}
    if configured is not None:  # it may also name serving processes of other machines
        own = known.get("serving_url")
        # The configured URLs cannot contain a port that was chosen just now.
        chosen = own is not None and not settings.serving_port
        known |= {"serving_url": f"{own},{configured}" if chosen else configured}
    return known


def _port(name: str, host: str, settings: Settings, before: Settings) -> int:
    """Return the port of a listener: the set one, or its default, or the last, or a free one.

    Raise StackError if another program uses a set port.
    """
    port: int | None = getattr(settings, name)
    if port and not reserve(host, port):
        raise StackError(
            f"Another program uses {host}:{port}. Stop it, or set another ECOLINK_{name.upper()}."
        )
    if port is None and reserve(host, DEFAULT_PORT):
        return DEFAULT_PORT
    return port or free_port(getattr(before, name) or 0, host)


def _service(name: str, roles: Mapping[str, str], own: Mapping[str, Settings]) -> Program:
    """Return the program of some roles, with the settings of each.

    It inherits no ECOLINK_ variables except these settings.
    """
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("ECOLINK_")}
    settings = next(iter(own.values()))
    beat_file = settings.home / "run" / "beats" / name
    variables = inherited | shared_variables(
        {
            role: environment(each.model_copy(update={"beat_file": beat_file}), role)
            for role, each in own.items()
        }
    )
    variables |= {"PYTHONUNBUFFERED": "1"}
    settings.home.joinpath("run", "beats").mkdir(mode=0o700, parents=True, exist_ok=True)
    checks: list[Check] = [Heartbeat(beat_file, settings.hung_seconds)]
    if name in LISTENERS:
        replies = partial(_replies, settings, name, PROBE_SECONDS)
        checks.append(Probe("no response to HTTP", settings.hung_seconds, replies))
    return Program(
        name=name,
        # -P: ignore a package of the same name in the current directory.
        argv=(
            *(sys.executable, "-P", "-m", "deploy.run"),
            *(f"{role}={target}" for role, target in roles.items()),
        ),
        environment=variables,
        roles=tuple(roles),
        forks=True,
        ready=partial(_replies, settings, name, 2.0, True) if name == "gateway" else None,
        checks=tuple(checks),
    )


def _replies(settings: Settings, name: str, timeout: float, well: bool = False) -> bool:
    """Return True if a listener replies to GET /healthz.

    If `well` is true, the status must be 200.
    """
    host, port = (getattr(settings, f"{name}_{field}") for field in ("host", "port"))
    status = healthz(_reachable(host), port, timeout)
    return status == HTTPStatus.OK if well else status is not None


def _reachable(host: str) -> str:
    """Return the address for connecting to a listener. A wildcard becomes the loopback address."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host
