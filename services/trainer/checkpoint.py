"""The files of a checkpoint, with everything that an exact resume needs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from peft import PeftModel
from pydantic import ConfigDict, ValidationError

from domain.jobs.failures import FailureClass
from domain.training.checkpoint import RejectionReason, SavedCheckpoint, StateHashes
from domain.training.hyperparameters import Hyperparameters
from domain.training.precision import Precision
from infrastructure.artifacts.store import ArtifactCorrupt, Artifacts
from infrastructure.bus.exchange import read
from infrastructure.training.reports import SAMPLE, SegmentSpec
from services.trainer.execution import ExecutionMode
from services.trainer.failures import SegmentFailure
from services.trainer.model import describe_adapter
from services.trainer.progress import Counters
from services.trainer.reference import Reference
from services.trainer.sampling import Sample
from services.trainer.state import TrainingState

POSITION = "position.json"

SCHEMA_VERSION = 1
"""Version of the files of a checkpoint."""


class CheckpointMismatch(SegmentFailure):
    """An intact checkpoint does not fit the job, or an incompatible trainer wrote it."""

    failure = FailureClass.CHECKPOINT_MISMATCH


class CheckpointDamaged(Exception):
    """A checkpoint differs from what was saved. An older checkpoint may be intact."""

    def __init__(self, reason: RejectionReason, detail: object) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class Position(Counters):
    """The counters of a job after `step` optimizer steps, and the settings to resume with."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA_VERSION
    dataset_sha256: str
    base_model: str
    hyperparameters: Hyperparameters
    precision: Precision
    mode: ExecutionMode
    state: StateHashes | None = None
    validation_sha256: str | None = None  # hash of the validation dataset; None: there is none

    @classmethod
    def read(cls, path: Path) -> Position:
        """Read a position. Raise CheckpointMismatch if an incompatible trainer wrote it."""
        content = json.loads(path.read_text())
        version = content.get("schema_version")
        if version != SCHEMA_VERSION:
            raise CheckpointMismatch(
                f"The checkpoint's {POSITION} has schema version {version}, but this trainer "
                f"reads {SCHEMA_VERSION}. Use the EcoLink version that wrote the checkpoint."
            )
        try:
            return read(cls, content)
        except ValidationError as error:
            raise CheckpointMismatch(
                f"This trainer cannot read the checkpoint's {POSITION}: {error}"
            ) from error

    def require_job(self, spec: SegmentSpec) -> None:
        """Raise CheckpointMismatch if the data, base model or settings differ from the job's."""
        dataset = ("dataset_sha256", "validation_sha256")
        for name in (*dataset, "base_model", "hyperparameters", "precision"):
            if getattr(self, name) != getattr(spec, name):
                raise CheckpointMismatch(f"The checkpoint's {name} differs from the job's.")


def write(
    directory: Path,
    model: PeftModel,
    state: TrainingState,
    position: Position,
    sample: Sample | None = None,
    reference: Reference | None = None,
) -> dict[str, str]:
    """Write a checkpoint in PEFT's format, with DPO's reference. Return hashes of large files."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    written = state.write(directory)
    describe_adapter(model, directory)
    (directory / POSITION).write_text(position.model_dump_json(indent=1))
    if sample is not None:
        (directory / SAMPLE).write_text(sample.model_dump_json(indent=1))
    if reference is not None:
        reference.write(directory)
    return written


def fetch(artifacts: Artifacts, saved: SavedCheckpoint, scratch: Path) -> tuple[Path, Position]:
    """Copy a checkpoint from the store and verify it against the hash in the event log.

    Raise CheckpointDamaged if files are missing or differ, and CheckpointMismatch if an
    incompatible trainer wrote the position. If the store is unreachable, its own error propagates.
    """
    directory = scratch / "resumed"
    shutil.rmtree(directory, ignore_errors=True)
    try:
        manifest = artifacts.get_directory(saved.ref, directory)
    except FileNotFoundError as error:
        raise CheckpointDamaged(RejectionReason.MISSING, error) from error
    except ArtifactCorrupt as error:
        raise CheckpointDamaged(RejectionReason.CORRUPT, error) from error
    if manifest.sha256 != saved.manifest_sha256:
        raise CheckpointDamaged(
            RejectionReason.CORRUPT, f"the manifest of {saved.ref} differs from the event log"
        )
    return directory, Position.read(directory / POSITION)
