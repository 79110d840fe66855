"""The Launcher port, which runs trainers. Each kind of infrastructure has an adapter."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from domain.catalog.catalog import Catalog
from domain.catalog.machine import Machine
from infrastructure.process.clock import Clock
from infrastructure.settings import Settings
from infrastructure.training.reports import SegmentSpec

TRAINER = (sys.executable, "-m", "services.trainer")
"""Command of every pod. The launcher appends the path of the SegmentSpec."""

ReadCatalog = Callable[[], Catalog]
"""A function that returns the current catalog. Launchers call it from any thread."""


class LaunchFailed(Exception):
    """The launcher cannot run a segment. No process of the segment runs, now or later."""


class GpusBusy(Exception):
    """Another process still holds the GPUs of a segment. Retry soon."""


class PodPending(GpusBusy):
    """A cluster has accepted a pod but has not started it. Retry until it starts.

    The pod is not bound, so it is not billed. The launcher may limit the time, and then raises
    LaunchFailed. Otherwise, the owner or an operator ends the wait.
    """


class LauncherUnavailable(ConnectionError):
    """The cluster does not answer. The state of its pods is unknown; they may run. Retry."""


@dataclass(frozen=True, order=True)
class PodName:
    """The name of the pod that runs one segment of a job."""

    job_id: UUID
    segment: int

    def __str__(self) -> str:
        return f"{self.job_id}-{self.segment}"

    @classmethod
    def parse(cls, text: str) -> PodName:
        """Parse the result of `str`. Raise ValueError if it is malformed."""
        job_id, _, segment = text.rpartition("-")
        return cls(UUID(job_id), int(segment))


@dataclass(frozen=True)
class Pod:
    """The state of a pod. A lost pod is not alive and has no exit code."""

    name: PodName
    bound_at: datetime  # by the launcher's clock, in UTC; billing starts here
    alive: bool
    exit_code: int | None = None  # negative: the signal that ended the trainer
    beat: int | None = None
    """A value that changes while the trainer works; None if the launcher ends silent ones."""


class Launcher(Protocol):
    """A launcher, which runs trainers on GPUs.

    The scheduler creates one launcher per process, with the settings, the clock and the catalog. A
    launcher needs no further setup. Callers may use every method in any order and from several
    threads, and may repeat every call. A launcher also finds the pods that an earlier process
    launched. Every method may raise LauncherUnavailable, after which nothing counts as changed.
    """

    @property
    def host(self) -> str | None:
        """Name of this machine and pod store, if only a scheduler on this machine sees its pods.

        None if a scheduler on any machine sees the same pods. The job's PodStarted event records
        the name, so that a scheduler elsewhere does not treat an unknown pod as lost.
        """
        ...

    def capacity(self, known: Mapping[tuple[str, str], int]) -> Mapping[tuple[str, str], int]:
        """Return the number of GPUs by (region, GPU type) for the entries of the current catalog.

        `known` is the present capacity of the pools, which earlier calls returned, possibly in
        another process. A pair that is not in the result has no GPUs. The scheduler sets the
        capacity of the GPU pools to the result. It calls this method at start, after each catalog
        change and after `measure_machine`.
        """
        ...

    def machine(self) -> Machine | None:
        """Return the machine that runs CPU-backed segments, or None if it is unknown.

        The scheduler calls this together with `capacity`. It must not block.
        """
        ...

    async def measure_machine(self) -> None:
        """Measure the speed of that machine for a few seconds. The scheduler calls this at start.

        If this fails, log the error. `machine` then has no speed.
        """
        ...

    def prepare(self) -> None:
        """Prepare for the next launch. The scheduler calls this every 0.5 s."""
        ...

    def launch(self, spec: SegmentSpec) -> Pod:
        """Bind the GPUs and start the trainer. Return the existing pod if there is one.

        The scheduler calls this when billing has granted the segment's first lease. After
        LaunchFailed, it repeats the call for ECOLINK_LAUNCH_RETRY_SECONDS, and after the other
        errors without a limit. Return within seconds, without waiting for GPUs.

        Raise GpusBusy if the GPUs are not free yet, PodPending if a cluster has not started the pod
        yet, and LaunchFailed for every other failure. In these cases, no GPU is bound. After
        LaunchFailed and GpusBusy, nothing runs.
        """
        ...

    def poll(self, name: PodName) -> Pod | None:
        """Return the current state of a pod, or None if it is unknown, pending or removed.

        The scheduler calls this once per heartbeat interval for each pod.
        """
        ...

    def stop(self, name: PodName) -> None:
        """Ask the trainer to save a checkpoint and exit. Ignore a pod that does not run."""
        ...

    def kill(self, name: PodName) -> None:
        """Kill all processes of a pod, including suspended ones. Ignore a pod that does not run.

        The scheduler calls this for a trainer that is silent or ignores `stop`.
        """
        ...

    def pods(self) -> list[PodName]:
        """Return all pods that were launched and not removed, in launch order.

        Include pending pods, so that the scheduler can remove those whose segment has ended.
        """
        ...

    def log(self, name: PodName, max_bytes: int) -> bytes:
        """Return the last `max_bytes` bytes of the trainer's output; empty for an unknown pod."""
        ...

    def kept_report(self, name: PodName) -> bytes | None:
        """Return the trainer's stored Report as JSON, from its last checkpoint or its end, or None.

        The scheduler reads it when a pod has ended, because the report may not have reached the
        bus.
        """
        ...

    def remove(self, name: PodName) -> None:
        """Delete an ended or pending pod and its files. Ignore an unknown pod.

        The scheduler calls this after it has stored the log and artifacts of an ended pod.
        """
        ...

    def close(self) -> None:
        """Release what `prepare` started. Launched pods keep running.

        The scheduler calls this when it exits.
        """
        ...


OpenLauncher = Callable[[Settings, Clock, ReadCatalog, Sequence[str]], Launcher]
"""A function that returns a ready launcher. Its last argument is the trainer's command."""


class ClusterLauncher:
    """The methods that launchers of clusters share: no measured machine, nothing in advance."""

    def machine(self) -> Machine | None:
        """Return None, so that estimates use the speeds of the catalog."""
        return None

    async def measure_machine(self) -> None:
        """Do nothing."""

    def prepare(self) -> None:
        """Do nothing."""
