"""The Launcher port: where segments run. One adapter for each kind of place."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from domain.catalog.catalog import Catalog
from domain.catalog.machine import Machine
from infrastructure.reports import SegmentSpec

TRAINER = (sys.executable, "-m", "services.trainer")
"""The program of every pod; it is given the path of its SegmentSpec."""


class LaunchFailed(Exception):
    """The place refused to run a segment."""


class NoRoomYet(Exception):
    """What ran in the place is not gone yet; in a moment it may run the segment."""


@dataclass(frozen=True, order=True)
class PodName:
    """A pod runs one segment of one job, and is named so."""

    job_id: UUID
    segment: int

    def __str__(self) -> str:
        return f"{self.job_id}-{self.segment}"

    @classmethod
    def parse(cls, text: str) -> PodName:
        """The name that `str` gave; raises ValueError."""
        job_id, _, segment = text.rpartition("-")
        return cls(UUID(job_id), int(segment))


@dataclass(frozen=True)
class Pod:
    """What a launcher knows of a pod. A lost pod is neither alive nor has an exit code."""

    name: PodName
    bound_at: datetime
    alive: bool
    exit_code: int | None = None
    beat: int | None = None
    """Changes every few seconds while the trainer reports, whether or not the bus is there."""


class Launcher(Protocol):
    """Runs trainer programs with resources; every call may be repeated without harm."""

    @property
    def host(self) -> str | None:
        """Name of the machine, and of its store of pods, that alone knows what runs there.

        None: wherever a scheduler runs, it sees the same pods.
        """
        ...

    def capacity(self, catalog: Catalog) -> Mapping[tuple[str, str], int]:
        """GPUs by (region, GPU type), of the regions that this launcher runs jobs in.

        Only what the catalog offers counts; a pair that is missing has none. Asked before the first
        launch: it is also how a launcher learns what the GPU types are.
        """
        ...

    def machine(self) -> Machine | None:
        """What CPU-backed segments compute on, as far as it is known; None: nothing is."""
        ...

    def measure_machine(self) -> None:
        """Measure how fast that machine is; may take seconds."""
        ...

    def tend(self) -> None:
        """Once a second or so: prepare for the next launch, where that makes it quick."""
        ...

    def launch(self, spec: SegmentSpec) -> Pod:
        """Bind the GPUs and start the trainer; a pod that was launched before is returned.

        Raises LaunchFailed: then nothing runs, nor will. Raises NoRoomYet at once where there is
        something to wait for: the segment is bound to nothing, and may be launched again.
        """
        ...

    def poll(self, name: PodName) -> Pod | None:
        """The pod as it is now; None if it was never launched, or removed."""
        ...

    def stop(self, name: PodName) -> None:
        """Ask the trainer to save and exit."""
        ...

    def kill(self, name: PodName) -> None:
        """End the pod's processes at once, also if they are stopped."""
        ...

    def pods(self) -> list[PodName]:
        """Every pod that was launched and not removed."""
        ...

    def log(self, name: PodName, max_bytes: int) -> bytes:
        """The end of what the trainer wrote."""
        ...

    def last_word(self, name: PodName) -> bytes | None:
        """The report that the trainer kept with its last checkpoint or at its end, as JSON."""
        ...

    def remove(self, name: PodName) -> None:
        """Forget a pod that ended, with its scratch files."""
        ...

    def close(self) -> None:
        """Give up what was only prepared; what was launched outlives us."""
        ...
