"""`python -m deploy.docker.trainer_host` runs the scheduler in a container with its trainers.

A container ends with its first process, and all its trainers with it. So that trainers outlive a
scheduler that fails, this process starts it again. When the container is stopped, it lets the
trainers save a checkpoint, as `ecolink up` does.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import deploy.selection  # noqa: F401 - first
from deploy.local.home import Home
from deploy.local.pods import stop_pods
from deploy.run import set_up_logging
from infrastructure.process.secret_files import load_secret_files
from infrastructure.settings import Settings

SCHEDULER = (sys.executable, "-P", "-m", "deploy.run", "scheduler")

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, STEADY_SECONDS = 1.0, 30.0, 60.0
"""Pauses before a restart. They double until the scheduler has run for STEADY_SECONDS."""

POLL_SECONDS = 0.1  # between two looks for a stop during a pause
POD_MARGIN_SECONDS = 5.0  # added to the trainer's grace period for the last checkpoint

log = logging.getLogger("trainer_host")


class TrainerHost:
    """The scheduler and the trainers of one container."""

    def __init__(self, settings: Settings, command: Sequence[str] = SCHEDULER) -> None:
        self._home = Home.of(settings)
        self._stop_seconds = settings.grace_seconds + POD_MARGIN_SECONDS
        self._command = command
        self._scheduler: subprocess.Popen[bytes] | None = None
        self._stops = False

    def run(self) -> None:
        """Run the scheduler until `stop`, then end the trainers."""
        pause = FIRST_PAUSE_SECONDS
        while not self._stops:
            began = time.monotonic()
            status = self._run_scheduler()
            if self._stops:
                break
            if time.monotonic() - began >= STEADY_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            log.warning("the scheduler ended with status %d; starting it in %g s", status, pause)
            self._wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        killed = stop_pods(self._home, self._stop_seconds)
        if killed:
            log.warning("%d trainers did not stop in time and were killed", killed)

    def stop(self) -> None:
        """Ask the scheduler to stop. Safe in a signal handler, because it takes no lock."""
        self._stops = True
        if self._scheduler is not None:
            self._scheduler.terminate()

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stops and time.monotonic() < until:
            time.sleep(POLL_SECONDS)

    def _run_scheduler(self) -> int:
        # Trainers end with this process, not with the scheduler.
        variables = os.environ | {"ECOLINK_SUPERVISOR_PID": str(os.getpid())}
        self._scheduler = subprocess.Popen(self._command, env=variables)
        if self._stops:  # the signal came before there was a process
            self._scheduler.terminate()
        return self._scheduler.wait()


def main() -> None:
    """Run until SIGTERM."""
    load_secret_files()
    settings = Settings()
    set_up_logging(settings, "trainer_host")
    host = TrainerHost(settings)
    signal.signal(signal.SIGTERM, lambda *_: host.stop())
    host.run()


if __name__ == "__main__":
    main()
