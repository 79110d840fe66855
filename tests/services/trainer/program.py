"""The trainer's program in a process, as on a pod, and the NATS server that it reports to."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import nats
from nats.js import JetStreamContext
from nats.js.api import DeliverPolicy

from deploy.local.nats import binary
from deploy.local.ports import free_port
from deploy.nats_accounts import NatsKeys, configuration
from infrastructure.bus.streams import REPORTS, provision
from infrastructure.training.reports import Control, SegmentSpec
from infrastructure.training.segment_credentials import CredentialIssuer
from tests.builders.next_version import from_next_version
from tests.bus_administrator import administrator_credentials
from tests.polling import eventually

T = TypeVar("T")

WAIT_SECONDS = 300.0
"""Longest wait for a line or the end of a program. The machine may be busy."""

KEYS = NatsKeys()
ISSUER = CredentialIssuer(KEYS.trainers, None, valid_seconds=3600)


class NatsServer:
    """A server that keeps its port and its data over restarts."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._port = directory, free_port()
        self.url = f"nats://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, unless it runs, and wait until it answers."""
        if self._process is None:
            config = self._directory / "nats.conf"
            config.write_text(configuration(KEYS, self._directory / "jetstream", self._port))
            (self._directory / "bus.creds").write_text(administrator_credentials(KEYS))
            command, quiet = [binary(), "--config", config], subprocess.DEVNULL
            self._process = subprocess.Popen(command, stdout=quiet, stderr=quiet)
            eventually(self._answers)

    def stop(self) -> None:
        """Stop the server if it runs."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def provision(self) -> None:
        """Create the declared streams. They keep all reports, so that tests can read them."""

        async def create(js: JetStreamContext) -> None:
            await provision(js, ())
            config = (await js.stream_info(REPORTS)).config
            await js.update_stream(config.evolve(max_msgs_per_subject=-1))

        self.ask(create)

    def control(self, spec: SegmentSpec, **fields: Any) -> None:
        """Send a Control message to a segment."""
        control = Control(
            job_id=spec.job_id, segment=spec.segment, **{"paid_seconds": 300} | fields
        )
        content = json.dumps(from_next_version(control)).encode()  # trainers ignore unknown fields
        self.ask(lambda js: js.publish(control.subject, content))

    def answer(self, spec: SegmentSpec) -> None:
        """Acknowledge a segment's final report."""
        self.control(spec, paid_seconds=spec.paid_seconds, answered=True)

    def reports(self, spec: SegmentSpec) -> list[dict]:
        """Return the reports of a segment, oldest first."""
        return self._messages("REPORTS", f"reports.{_name(spec)}")

    def final_reports(self, spec: SegmentSpec) -> list[dict]:
        return [report for report in self.reports(spec) if report["ending"]]

    def log_lines(self, spec: SegmentSpec) -> list[dict]:
        """Return the log lines of a segment, oldest first."""
        return self._messages("TELEMETRY", f"logs.{_name(spec)}")

    def steps(self, spec: SegmentSpec) -> list[dict]:
        """Return the measured steps of a segment and of those before it, oldest first."""
        job = f"telemetry.{spec.account_id}.{spec.job_id}"
        return self._messages("TELEMETRY", f"{job}.>")

    def ask(self, question: Callable[[JetStreamContext], Awaitable[T]]) -> T:
        """Send a request over a new connection."""

        async def run() -> T:
            credentials = self._directory / "bus.creds"
            client = await nats.connect(self.url, user_credentials=credentials)
            try:
                return await question(client.jetstream())
            finally:
                await client.close()

        return asyncio.run(run())

    def _messages(self, stream: str, subject: str) -> list[dict]:
        async def read(js: JetStreamContext) -> list[dict]:
            last = (await js.stream_info(stream, subjects_filter=subject)).state.subjects or {}
            if not last:
                return []
            subscription = await js.subscribe(
                subject, stream=stream, ordered_consumer=True, deliver_policy=DeliverPolicy.ALL
            )
            count = sum(last.values())
            return [json.loads((await subscription.next_msg(5)).data) for _ in range(count)]

        return self.ask(read)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0


def _name(spec: SegmentSpec) -> str:
    return f"{spec.account_id}.{spec.job_id}.{spec.segment}"


class Program:
    """A running trainer."""

    def __init__(self, spec: SegmentSpec, directory: Path, environment: dict[str, str]) -> None:
        directory.mkdir(parents=True)
        path = directory / "spec.json"
        path.write_text(spec.model_dump_json())
        self._log = directory / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.trainer", str(path)],
                stdout=log,
                stderr=log,
                env=os.environ | environment,
            )

    @property
    def log(self) -> str:
        """Return its output so far."""
        return self._log.read_text()

    def await_line(self, pattern: str, count: int = 1) -> None:
        """Wait until this many lines match."""

        def found() -> bool:
            enough = len(re.findall(pattern, self.log, re.MULTILINE)) >= count
            assert enough or self.process.poll() is None, self.log
            return enough

        eventually(found, WAIT_SECONDS)

    def await_training(self) -> None:
        """Wait until a report contains a step."""
        self.await_line(r"^report .* phase=training step=[1-9]")

    def wait(self) -> int:
        """Wait for its exit code."""
        return self.process.wait(WAIT_SECONDS)

    def kill(self) -> None:
        """Kill it if it still runs."""
        self.process.kill()
        self.process.wait()
