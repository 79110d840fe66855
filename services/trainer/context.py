"""The context shared by all phases of a segment."""

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
    """The spec, directories, reporter and lease of a segment in one rank's process."""

    spec: SegmentSpec
    artifacts: Artifacts
    directory: Path  # the pod's working directory
    cache: Path  # shared by all pods of the machine
    reporter: ReporterPort
    lease: Lease  # expires in rank 0 only
    ranks: Ranks

    @cached_property
    def scratch(self) -> Path:
        """A directory for this rank only."""
        ranks = self.ranks
        path = self.directory if ranks.leads else self.directory / f"rank-{ranks.rank}"
        path.mkdir(exist_ok=True)
        return path

    def enter(self, phase: Phase) -> None:
        """Begin a phase. Raise SegmentStopped if the segment has to end first."""
        try:
            self.lease.check()
        except SegmentStopped:
            self.reporter.log(f"stopping before {phase.value}")
            raise
        self.reporter.enter(phase)
