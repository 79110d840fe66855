"""The trainer as a process of its own, like on a pod."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from infrastructure.reports import Control, SegmentSpec
from tests.polling import eventually
from tests.services.trainer.nats_server import NatsServer


class Program:
    """A running trainer."""

    def __init__(self, spec: SegmentSpec, directory: Path, nats_url: str, artifacts_url: str):
        directory.mkdir(parents=True)
        path = directory / "spec.json"
        path.write_text(spec.model_dump_json())
        self._log = directory / "log"
        environment = os.environ | {
            "ECOLINK_NATS_URL": nats_url,
            "ECOLINK_ARTIFACTS_URL": artifacts_url,
            "OMP_NUM_THREADS": "1",  # a tiny model only waits for a second thread
        }
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.trainer", str(path)],
                stdout=log,
                stderr=log,
                env=environment,
            )

    @property
    def log(self) -> str:
        """Its output so far."""
        return self._log.read_text()

    def await_line(self, pattern: str, count: int = 1, timeout: float = 100.0) -> list[str]:
        """Wait until this many lines match; return every match."""

        def found() -> list[str]:
            matches = re.findall(pattern, self.log, re.MULTILINE)
            assert len(matches) >= count or self.process.poll() is None, self.log
            return matches if len(matches) >= count else []

        return eventually(found, timeout)

    def wait(self, timeout: float = 100.0) -> int:
        """Wait for its exit code."""
        return self.process.wait(timeout)

    def kill(self) -> None:
        """Kill it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def answer(server: NatsServer, spec: SegmentSpec) -> None:
    """Acknowledge a segment's final report."""
    server.control(
        Control(
            job_id=spec.job_id,
            segment=spec.segment,
            paid_seconds=spec.paid_seconds,
            answered=True,
        )
    )


def reports(server: NatsServer, spec: SegmentSpec) -> list[dict]:
    subject = f"reports.{spec.account_id}.{spec.job_id}.{spec.segment}"
    return server.messages("REPORTS", subject)
