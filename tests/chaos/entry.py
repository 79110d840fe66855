"""Entry points of the processes under test: `tests.chaos.entry:<process>`.

An entry point wraps the seams of the process, shortens a few delays, and then runs the process as
the product does. The supervisor starts it in place of the product's own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module

from deploy.processes import PROCESSES
from infrastructure.settings import Settings
from tests.chaos import breaks, network, seams
from tests.chaos.facts import FactFile, control_directory
from tests.chaos.failpoints import Failpoints

LEASE = "CHAOS_LEASE"
"""Environment variable with the lease of a leader, in seconds."""

IDLE_SECONDS, BEATS_OF_LEASE = 4.0, 8
"""Lease of a leader, if the environment has none, and its beats. The product's are 20 s and 10."""

RELAUNCH_SECONDS = (0, 1, 3)
"""Delays before relaunches. The product's are 0 s, 30 s and 5 min."""

LAUNCH_SECONDS = 60.0
"""Time in which a shim must start. The product's is 30 s; the machine may be busy."""

TRAINER = (sys.executable, "-m", "tests.chaos.trainer")


def __getattr__(name: str) -> Callable[[Settings], None]:
    if name not in PROCESSES:
        raise AttributeError(name)
    return lambda settings: run(name, settings)


def run(name: str, settings: Settings) -> None:
    """Run a process of the product with wrapped seams."""
    settings = network.enter(name, settings)
    directory = control_directory()
    _adjust_delays()
    if name in ("gateway", "serving"):
        _adjust_chats()
    points = Failpoints(directory, name)
    seams.install(points, FactFile(directory / "writes" / f"{name}-{os.getpid()}.jsonl"))
    if name == "scheduler":
        from services.scheduler.launchers import registry

        settings = settings.model_copy(update={"launch_seconds": LAUNCH_SECONDS})
        seams.install_launcher(points)
        registry.TRAINER = TRAINER
    breaks.install(name)
    module, _, function = PROCESSES[name].partition(":")
    getattr(import_module(module), function)(settings)


def lease_seconds() -> float:
    """Return the lease of a leader under test, in seconds."""
    return float(os.environ.get(LEASE, IDLE_SECONDS))


def _adjust_chats() -> None:
    """Notice a hung serving process after a lease, as the product does."""
    import gateway.chat.serving
    from services.serving import api

    gateway.chat.serving.ACCEPT_SECONDS = lease_seconds()
    api.KEEPALIVE_SECONDS = lease_seconds() / gateway.chat.serving.LATE_KEEPALIVES


def _adjust_delays() -> None:
    from datetime import timedelta

    from domain.jobs import job
    from infrastructure.postgres import leadership

    leadership.IDLE_SECONDS = lease_seconds()
    leadership.BEAT_SECONDS = leadership.IDLE_SECONDS / BEATS_OF_LEASE
    job.RELAUNCH_DELAYS = tuple(timedelta(seconds=each) for each in RELAUNCH_SECONDS)
