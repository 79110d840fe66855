"""The Launcher port: where the trainers of segments run. Each kind of place has one adapter."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from domain.catalog.catalog import Catalog
from domain.catalog.machine import Machine
from infrastructure.clock import Clock
from infrastructure.reports import SegmentSpec
from infrastructure.settings import Settings

TRAINER = (sys.executable, "-m", "services.trainer")
"""Command of every pod. Its last argument is the path of the SegmentSpec."""

ReadCatalog = Callable[[], Catalog]
"""Returns the catalog as it is now. Launchers call it from any thread."""


class LaunchFailed(Exception):
    """The launcher cannot run a segment. Nothing of it runs, now or later."""


class GpusBusy(Exception):
    """The GPUs of a segment are still held by a process that is about to exit. Try again soon."""


@dataclass(frozen=True, order=True)
class PodName:
    """Name of the pod that runs one segment of one job."""

    job_id: UUID
    segment: int

    def __str__(self) -> str:
        return f"{self.job_id}-{self.segment}"

    @classmethod
    def parse(cls, text: str) -> PodName:
        """Inverse of `str`. Raises ValueError."""
        job_id, _, segment = text.rpartition("-")
        return cls(UUID(job_id), int(segment))


@dataclass(frozen=True)
class Pod:
    """State of a pod. A lost pod is not alive and has no exit code."""

    name: PodName
    bound_at: datetime  # by the launcher's clock, UTC: billing starts here
    alive: bool
    exit_code: int | None = None  # negative: the signal that ended the trainer
    beat: int | None = None
    """Changes every few seconds while the trainer works, even if the bus is down."""


class Launcher(Protocol):
    """Runs trainers on GPUs.

    The scheduler builds one launcher per process, with the settings, the clock and the catalog. It
    needs no further setup: callers may use every method in any order, from several threads, and
    repeat every call. A launcher finds the pods that an earlier process launched.
    """

    @property
    def host(self) -> str | None:
        """Name of the machine and of the pod store that only a scheduler there can see.

        None if a scheduler on any machine sees the same pods. The job's PodStarted event records
        it, so that a scheduler elsewhere does not take an unknown pod for a lost one.
        """
        ...

    def capacity(self) -> Mapping[tuple[str, str], int]:
        """Number of GPUs by (region, GPU type), of what the catalog offers now.

        A missing pair has none. The scheduler sets the capacity of the GPU pools to the result. It
        calls this method at start, after each change of the catalog and after `measure_machine`.
        """
        ...

    def machine(self) -> Machine | None:
        """The machine that CPU-backed segments run on, or None if it is unknown.

        Called together with `capacity`. Does not block.
        """
        ...

    def measure_machine(self) -> None:
        """Measure the speed of that machine, for a few seconds. The scheduler calls it at start.

        A failure is logged, and `machine` then has no speed.
        """
        ...

    def prepare(self) -> None:
        """Prepare for the next launch. The scheduler calls it every 0.5 seconds."""
        ...

    def launch(self, spec: SegmentSpec) -> Pod:
        """Bind the GPUs and start the trainer. Returns the existing pod if there is one.

        The scheduler calls it when billing has granted the segment's first lease, and again for
        up to 20 seconds after GpusBusy. Returns within seconds, without waiting for GPUs.

        Raises GpusBusy if the GPUs are not free yet, and LaunchFailed for every other failure. In
        both cases nothing runs and no GPU is bound.
        """
        ...

    def poll(self, name: PodName) -> Pod | None:
        """Current state of a pod, or None if it was never launched or was removed.

        The scheduler calls it once per heartbeat interval for each pod.
        """
        ...

    def stop(self, name: PodName) -> None:
        """Ask the trainer to save and exit. Ignores a pod that does not run."""
        ...

    def kill(self, name: PodName) -> None:
        """End all processes of a pod at once, suspended ones too. Ignores a pod that does not run.

        The scheduler calls it for a trainer that is silent or ignores `stop`.
        """
        ...

    def pods(self) -> list[PodName]:
        """All pods that were launched and not removed, in order."""
        ...

    def log(self, name: PodName, max_bytes: int) -> bytes:
        """The last `max_bytes` bytes of the trainer's output; empty for an unknown pod."""
        ...

    def kept_report(self, name: PodName) -> bytes | None:
        """The Report that the trainer stored with its last checkpoint or at its end, as JSON.

        None if there is none. The scheduler reads it when a pod ended and the bus may have missed
        the report.
        """
        ...

    def remove(self, name: PodName) -> None:
        """Delete an ended pod with its files. Called once its log and artifacts are stored."""
        ...

    def close(self) -> None:
        """Release what `prepare` started, when the scheduler exits. Launched pods keep running."""
        ...


OpenLauncher = Callable[[Settings, Clock, ReadCatalog, Sequence[str]], Launcher]
"""Builds a launcher that is ready to launch. The last argument is the trainer's command."""
