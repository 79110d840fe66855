"""A nats-server that can be stopped and started again with its data."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import nats
from nats.js import JetStreamContext
from nats.js.api import DeliverPolicy

from deploy.local.nats import binary
from deploy.local.ports import free_port
from deploy.nats_accounts import NatsKeys, configuration
from infrastructure.bus import provision
from infrastructure.reports import Control
from infrastructure.segment_credentials import CredentialIssuer
from tests.polling import eventually

T = TypeVar("T")

KEYS = NatsKeys()
ISSUER = CredentialIssuer(KEYS.trainers, None, valid_seconds=3600)


class NatsServer:
    """Keeps its port and its data over restarts."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = free_port()
        self.url = f"nats://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        config = self._directory / "nats.conf"
        config.write_text(configuration(KEYS, self._directory / "jetstream", self._port))
        (self._directory / "services.creds").write_text(KEYS.services_credentials)
        self._process = subprocess.Popen(
            [binary(), "--config", config],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(self._answers)

    def stop(self) -> None:
        """Stop the server if it runs."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    @property
    def runs(self) -> bool:
        """True if it runs."""
        return self._process is not None

    def provision(self) -> None:
        """Create the declared streams."""
        self.ask(lambda js: provision(js, ()))

    def messages(self, stream: str, subject: str) -> list[dict]:
        """Every stored message under a subject, oldest first."""

        async def read(js: JetStreamContext) -> list[dict]:
            last = (await js.stream_info(stream, subjects_filter=subject)).state.subjects or {}
            wanted = sum(last.values())
            if not wanted:
                return []
            subscription = await js.subscribe(
                subject, stream=stream, ordered_consumer=True, deliver_policy=DeliverPolicy.ALL
            )
            return [json.loads((await subscription.next_msg(5)).data) for _ in range(wanted)]

        return self.ask(read)

    def control(self, control: Control) -> None:
        """Send a Control message to a segment."""
        self.ask(lambda js: js.publish(control.subject, control.model_dump_json().encode()))

    def ask(self, question: Callable[[JetStreamContext], Awaitable[T]]) -> T:
        """Send a request over a new connection."""

        async def run() -> T:
            credentials = self._directory / "services.creds"
            client = await nats.connect(self.url, user_credentials=credentials)
            try:
                return await question(client.jetstream())
            finally:
                await client.close()

        return asyncio.run(run())

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0
