"""The context that every phase of a segment uses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from domain.training.phases import Phase
from infrastructure.artifacts import Artifacts
from infrastructure.reports import SegmentSpec
from services.trainer.lease import Lease, SegmentStopped
from services.trainer.reporter_port import ReporterPort

if TYPE_CHECKING:
    from services.trainer.processes.ranks import Ranks


@dataclass(frozen=True)
class Context:
    """A segment's spec, directories, reporter and lease in one rank's process."""

    spec: SegmentSpec
    artifacts: Artifacts
    directory: Path  # of the pod
    cache: Path  # of the machine
    reporter: ReporterPort
    lease: Lease  # only rank 0's ends
    ranks: Ranks

    @cached_property
    def scratch(self) -> Path:
        """A directory of this rank's own."""
        ranks = self.ranks
        path = self.directory if ranks.leads else self.directory / f"rank-{ranks.rank}"
        path.mkdir(exist_ok=True)
        return path

    def enter(self, phase: Phase) -> None:
        """Begin a phase; raise SegmentStopped if the segment has to end before it."""
        try:
            self.lease.check()
        except SegmentStopped:
            self.reporter.log(f"stopping before {phase.value}")
            raise
        self.reporter.enter(phase)
