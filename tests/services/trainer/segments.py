"""Segments over a tiny base model, run in this process or in ranks, and their reports."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from domain.jobs.lifecycle import SegmentEnd
from domain.training.checkpoint import SavedCheckpoint
from domain.training.evaluation import EvaluationResult
from domain.training.hyperparameters import Hyperparameters
from domain.training.phases import Phase
from infrastructure.artifacts.store import Artifacts
from infrastructure.training.reports import EvaluationMeasured, SegmentSpec, StepMeasured
from services.trainer.clock import SegmentClock
from services.trainer.lease import Lease, SegmentStopped
from services.trainer.unsent import Unsent
from tests.builders.tiny_model import chats
from tests.services.trainer.program import ISSUER

if TYPE_CHECKING:
    from services.trainer.processes.ranks import Ranks
    from services.trainer.processes.warm_base import WarmBase

HYPERPARAMETERS = {
    "epochs": 2,
    "micro_batch_size": 2,
    "gradient_accumulation": 2,
    "learning_rate": 0.01,
}


def resuming(spec: SegmentSpec, *saved: SavedCheckpoint) -> SegmentSpec:
    """Return the next segment of a job, with the checkpoints to resume from, newest first."""
    number = spec.segment + 1
    fields = {
        "segment": number,
        "resume_from": saved,
        "checkpoint_prefix": f"{spec.checkpoint_prefix}-{number}",
        "credentials": ISSUER.issue(spec.account_id, spec.job_id, number),
    }
    return spec.model_copy(update=fields)


@dataclass(frozen=True)
class Stop:
    """An interruption of a segment."""

    stop_after: int | None = None  # request a stop after this step
    stop_in: int | None = None  # request a stop before this micro-batch, from 1 over all steps
    lapse_after: int | None = None  # end paid time after this step


class Run:
    """The reports of a segment, which may end its lease."""

    def __init__(self, lease: Lease, stop: Stop | None = None) -> None:
        self.lease, self._stop = lease, stop or Stop()
        self.fields: dict[str, Any] = {}
        self.phases: list[str] = []
        self.steps: list[StepMeasured] = []
        self.evaluations: list[EvaluationMeasured] = []
        self.checkpoints: list[SavedCheckpoint] = []
        self.resent: Unsent | None = None
        self.lines: list[str] = []
        self.warnings: list[str] = []  # also in the lines
        self.outcome: SegmentEnd | None = None  # None: completed
        self.error: str | None = None  # that ended a rank of `run_ranks`

    def enter(self, phase: Phase) -> None:
        self.phases.append(phase.value)

    def update(self, *, now: bool = False, **fields: Any) -> None:
        self.fields |= fields

    def measure(self, measured: StepMeasured | EvaluationMeasured) -> None:
        if isinstance(measured, EvaluationMeasured):
            self.evaluations.append(measured)
            return
        self.steps.append(measured)
        if measured.step == self._stop.stop_after:
            self.lease.request_stop()
        if measured.step == self._stop.lapse_after:
            self.lease.clock = SegmentClock(self.lease.paid_seconds + 0.1)

    @property
    def unsent(self) -> Unsent:
        return Unsent()

    def resend(self, unsent: Unsent) -> None:
        self.resent = unsent

    def saved(self, checkpoint: SavedCheckpoint) -> None:
        self.checkpoints.append(checkpoint)

    def log(self, text: str, level: str = "INFO") -> None:
        self.lines.append(text)
        if level == "WARNING":
            self.warnings.append(text)

    @property
    def losses(self) -> list[float]:
        return [measured.train_loss for measured in self.steps]

    @property
    def evaluation(self) -> EvaluationResult:
        return self.fields["evaluation"]

    @property
    def saved_steps(self) -> list[int]:
        return [saved.step for saved in self.checkpoints]

    def warns(self, text: str) -> bool:
        return any(text in line for line in self.warnings)


@dataclass(frozen=True)
class Segment:
    """A segment to run in this process."""

    spec: SegmentSpec
    store: str
    directory: Path
    stop: Stop

    def run(
        self,
        ranks: Ranks,
        *,
        age_seconds: float = 0.0,
        warm_base: WarmBase | None = None,
        patch: Callable[..., None] = setattr,
    ) -> Run:
        """Run one rank of the segment until it completes or stops."""
        from services.trainer import objectives, segment, training
        from services.trainer.checkpoint_writer import Checkpoints
        from services.trainer.context import Context

        spec, cache = self.spec, self.directory.parent / "cache"
        lease = Lease(SegmentClock(age_seconds), spec.paid_seconds, spec.grace_seconds)
        run: Any = Run(lease, self.stop if ranks.leads else None)
        if ranks.leads and self.stop.stop_in is not None:
            arrive = before_call(lambda: None, self.stop.stop_in, lease.request_stop)
            for module, name in (
                (training, "loss_sum"),  # in a rehearsal
                (objectives, "loss_sum"),
                (objectives, "log_probabilities"),
            ):
                patch(module, name, after(arrive, getattr(module, name)))
        context = Context(spec, Artifacts(self.store), self.directory, cache, run, lease, ranks)
        try:
            segment.run(context, Checkpoints(context), warm_base)
        except SegmentStopped as stopped:
            run.outcome = stopped.outcome
        return run


def before_call(function: Callable, number: int, act: Callable[[], object]) -> Callable:
    """Return a function that calls `act` before its call of a number, from 1."""
    count = 0

    def counting(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == number:
            act()
        return function(*arguments)

    return counting


def after(act: Callable[[], object], function: Callable) -> Callable:
    """Return a function that calls `act` before each of its calls."""

    def acting(*arguments: Any) -> Any:
        act()
        return function(*arguments)

    return acting


class SegmentStore:
    """A store of artifacts, and the specs of segments that use it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, (folder / "artifacts").as_uri()
        self.artifacts = Artifacts(self.url)

    def spec(
        self,
        hyperparameters: dict[str, Any] | None = None,
        rows: list[dict] | None = None,
        **fields: Any,
    ) -> SegmentSpec:
        """Return the spec of a job's first segment over stored rows, by default 20 chats."""
        ref, sha256 = self.put_rows(chats(20) if rows is None else rows)
        account_id, job_id = uuid4(), uuid4()
        values = {
            "account_id": account_id,
            "job_id": job_id,
            "segment": 1,
            "dataset_ref": ref,
            "dataset_sha256": sha256,
            "base_model": "tiny",
            "base_ref": "models/tiny",
            "hyperparameters": Hyperparameters(**HYPERPARAMETERS | (hyperparameters or {})),
            "paid_seconds": 300,
            "grace_seconds": 30,
            "heartbeat_seconds": 0.05,
            "checkpoint_prefix": f"jobs/{job_id}/checkpoints",
            "adapter_prefix": f"jobs/{job_id}/adapter",
            "credentials": ISSUER.issue(account_id, job_id, 1),
        }
        return SegmentSpec(**values | fields)

    def put_rows(self, rows: list[dict]) -> tuple[str, str]:
        """Store a dataset. Return its ref and sha256."""
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        sha256 = hashlib.sha256(content).hexdigest()
        ref = f"datasets/{sha256}.jsonl"
        self.artifacts.put(ref, content)
        return ref, sha256

    def adapter_sha256(self, spec: SegmentSpec) -> str:
        """Return the hash of a registered adapter's weights."""
        files = self.artifacts.manifest(spec.adapter_prefix).files
        return next(file.sha256 for file in files if file.path == "adapter_model.safetensors")

    def position(self, saved: SavedCheckpoint) -> dict[str, Any]:
        """Return the counters and settings in a checkpoint."""
        return json.loads(self.artifacts.get(f"{saved.ref}/position.json"))


class Trainer(SegmentStore):
    """Segments over a tiny base model."""

    def __init__(self, folder: Path, tiny_model: Path, patch: pytest.MonkeyPatch) -> None:
        super().__init__(folder)
        self.patch = patch
        self.artifacts.put_directory("models/tiny", tiny_model)

    def run(
        self,
        spec: SegmentSpec,
        *,
        age_seconds: float = 0.0,
        warm_base: WarmBase | None = None,
        **stop: int | None,
    ) -> Run:
        """Run a segment in this process until it completes or stops, as `Stop` says."""
        from services.trainer.processes.ranks import Ranks

        segment = self._segment(spec, stop)
        segment.directory.mkdir()
        with self.patch.context() as patch:
            return segment.run(
                Ranks.alone(), age_seconds=age_seconds, warm_base=warm_base, patch=patch.setattr
            )

    def train(self, hyperparameters: dict[str, Any] | None = None, **fields: Any) -> Run:
        """Run the only segment of a new job."""
        return self.run(self.spec(hyperparameters, **fields))

    def run_ranks(
        self, spec: SegmentSpec, prepare: Callable[[], None] | None = None, **stop: int
    ) -> list[Run]:
        """Run a segment in all its ranks, in which `prepare` is called first.

        Return the run of each rank, or of rank 0 only after a stop.
        """
        from tests.services.trainer.ranks import run_ranks

        return run_ranks(self._segment(spec, stop), prepare)

    def _segment(self, spec: SegmentSpec, stop: dict[str, Any]) -> Segment:
        directory = self.folder / f"{spec.job_id}-{spec.segment}"
        return Segment(spec, self.url, directory, Stop(**stop))

    def result(self, spec: SegmentSpec, *runs: Run) -> dict[str, Any]:
        """Return everything that an interruption must not change, of all runs of a job."""
        steps = [step for run in runs for step in run.steps]
        return {
            "losses": [step.train_loss for step in steps],
            "smoothed losses": [step.smoothed_loss for step in steps],
            "tokens": runs[-1].fields["trained_tokens"],
            "evaluation": runs[-1].evaluation,
            "adapter": self.adapter_sha256(spec),
        }

    def rewritten(
        self, saved: SavedCheckpoint, change: Callable[[Path], object]
    ) -> SavedCheckpoint:
        """Change the files of a checkpoint, and return it with its new hash."""
        directory = self.folder / f"rewritten-{uuid4().hex}"
        self.artifacts.get_directory(saved.ref, directory)
        change(directory)
        manifest = self.artifacts.put_directory(saved.ref, directory)
        return saved.model_copy(update={"manifest_sha256": manifest.sha256})
