"""The context that all phases of a segment share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from obstore.exceptions import PermissionDeniedError

from domain.training.phases import Phase
from domain.training.precision import Precision
from infrastructure.artifacts.object_stores import PATIENT_SECONDS
from infrastructure.artifacts.store import Artifacts
from infrastructure.settings import Settings
from infrastructure.training.reports import SegmentSpec
from services.model_libraries import lean_imports
from services.trainer.lease import Lease, SegmentStopped
from services.trainer.reporter_port import ReporterPort
from services.trainer.store_keys import StoreKeys

if TYPE_CHECKING:
    from services.trainer.processes.ranks import Ranks


@dataclass(frozen=True)
class Context:
    """The spec, directories, reporter and lease of a segment in the process of one rank."""

    spec: SegmentSpec
    artifacts: Artifacts
    directory: Path  # working directory of the pod
    cache: Path  # shared by all pods of the machine
    reporter: ReporterPort
    lease: Lease  # expires in rank 0 only
    ranks: Ranks

    @classmethod
    def join(
        cls,
        spec: SegmentSpec,
        directory: Path,
        settings: Settings,
        reporter: ReporterPort,
        lease: Lease,
    ) -> Context:
        """Import the training libraries, which takes seconds, and connect to the other ranks."""
        lean_imports(quantized=spec.precision is Precision.NF4)
        from services.trainer.processes.ranks import Ranks

        if spec.gpu_count == 1:
            ranks = Ranks.alone()
        else:
            ranks = Ranks.join(rendezvous_path(directory), spec.stall_seconds)
        keys = StoreKeys(spec, directory)
        artifacts = LeasedArtifacts(settings.artifacts, lease, keys if keys.limited else None)
        return cls(spec, artifacts, directory, settings.cache, reporter, lease, ranks)

    @cached_property
    def scratch(self) -> Path:
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


class LeasedArtifacts(Artifacts):
    """The artifact store of a segment, in which each downloaded chunk counts as progress.

    Downloading a large base model can take longer than the stall limit and the grace period. With
    keys of its own, the segment may not list files. AWS then refuses to say that a file does not
    exist, so a refusal to read counts as a missing file. A segment reads its base model first, with
    the same keys, so wrong keys do not look like a missing checkpoint.
    """

    def __init__(self, url: str, lease: Lease, keys: StoreKeys | None = None) -> None:
        super().__init__(url, patience_seconds=PATIENT_SECONDS, credentials=keys)
        self._lease, self._limited = lease, keys is not None

    def get(self, ref: str) -> bytes:
        """Return the bytes under a ref. Raise FileNotFoundError if it does not exist."""
        with self._refusal_as_missing(ref):
            return super().get(ref)

    def stream(self, ref: str, chunk_bytes: int = 1024 * 1024) -> Iterator[bytes]:
        """Yield the content of a ref in chunks, until the segment has to end."""
        with self._refusal_as_missing(ref):
            for chunk in super().stream(ref, chunk_bytes):
                self._lease.check()
                yield chunk

    @contextmanager
    def _refusal_as_missing(self, ref: str) -> Iterator[None]:
        try:
            yield
        except PermissionDeniedError as error:
            if not self._limited:
                raise
            raise FileNotFoundError(f"{ref} does not exist, or may not be read") from error


def rendezvous_path(directory: Path) -> Path:
    """Return the path of the file through which the ranks of a segment connect."""
    return directory / "rendezvous"
