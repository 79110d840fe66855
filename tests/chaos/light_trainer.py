"""The phases of a light segment, which trains nothing: a step only sleeps.

It stores checkpoints and an adapter in the product's format, and resumes as the product does. The
job's seed determines the number of steps, and makes some jobs fail.
"""

from __future__ import annotations

import json
import random
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from domain.training.checkpoint import (
    RejectionReason,
    ResumeCertificate,
    SavedCheckpoint,
    StateHashes,
)
from domain.training.evaluation import EvaluationResult
from domain.training.phases import Phase
from infrastructure.artifacts.store import STORE_ERRORS, ArtifactCorrupt
from infrastructure.settings import Settings
from infrastructure.training.reports import RejectedCheckpoint, SegmentSpec, StepMeasured
from services.trainer.context import LeasedArtifacts
from services.trainer.failures import BadData
from services.trainer.lease import Lease, SegmentStopped
from services.trainer.reporter import Reporter
from tests.builders.tiny_model import TINY_SHAPE
from tests.chaos.facts import FactFile

STEP_SECONDS = 0.15
CRASHES, BAD_DATA, LONG = 1, 2, 3
"""Remainders of the job's seed modulo 10: its first segment fails, or it has many steps."""

ADAPTER: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj"],
}
"""Configuration of the adapter, which suits the tiny model, so that its model can be exported."""

STATE = StateHashes(weights="1" * 64, optimizer="2" * 64, random="3" * 64, position="4" * 64)


class Plan:
    """Behavior of a job, which its seed determines."""

    def __init__(self, seed: int) -> None:
        drawn = random.Random(seed)
        self.failure = seed % 10
        self.steps = drawn.randint(300, 400) if self.failure == LONG else drawn.randint(20, 60)
        self.fails_after = drawn.randint(5, self.steps - 5)


class Work:
    """The phases of one segment."""

    def __init__(
        self,
        spec: SegmentSpec,
        directory: Path,
        reporter: Reporter,
        lease: Lease,
        facts: FactFile,
    ) -> None:
        self._spec, self._directory, self._facts = spec, directory, facts
        self._reporter, self._lease = reporter, lease
        self._artifacts = LeasedArtifacts(Settings().artifacts, lease)
        self._plan = Plan(spec.hyperparameters.seed)
        self._step = self._saved_step = 0

    def run(self) -> None:
        """Run every phase. Raise SegmentStopped if the segment ends earlier."""
        self._enter(Phase.MODEL_LOAD)
        self._resume()
        self._sleep(0.2)
        self._enter(Phase.DATASET_PREP)
        self._reporter.update(total_steps=self._plan.steps, step=self._step, train_examples=10)
        self._enter(Phase.TRAINING)
        while self._step < self._plan.steps:
            self._train_step()
            if self._step % self._spec.hyperparameters.save_steps == 0:
                self._save()
        self._save()
        self._enter(Phase.EVALUATION)
        self._sleep(0.3)
        self._reporter.update(now=True, evaluation=_evaluation())
        self._enter(Phase.REGISTER)
        self._register()

    def _enter(self, phase: Phase) -> None:
        self._lease.check()
        self._reporter.enter(phase)

    def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)
        self._facts.write(
            "work", elapsed=self._lease.clock.elapsed(), paid=self._lease.paid_seconds
        )

    def _train_step(self) -> None:
        try:
            self._lease.check()
        except SegmentStopped:
            self._save()
            self._lease.check()  # the lease may have been extended in the meantime
        self._sleep(STEP_SECONDS)
        self._step += 1
        self._reporter.update(step=self._step, train_loss=1.0)
        self._reporter.measure(self._measured())
        if self._spec.segment == 1 and self._step == self._plan.fails_after:
            self._fail()

    def _fail(self) -> None:
        if self._plan.failure == CRASHES:
            self._facts.write("crash")
            raise RuntimeError("a crash that the job's seed asks for")
        if self._plan.failure == BAD_DATA:
            self._facts.write("bad_data")
            raise BadData("a defect of the data that the job's seed asks for")

    def _measured(self) -> StepMeasured:
        return StepMeasured(
            account_id=self._spec.account_id,
            job_id=self._spec.job_id,
            segment=self._spec.segment,
            step=self._step,
            total_steps=self._plan.steps,
            train_loss=1.0,
            smoothed_loss=1.0,
            learning_rate=1e-4,
            tokens=100,
            tokens_per_second=100.0,
            elapsed_seconds=self._lease.clock.elapsed(),
            measured_at=datetime.now(UTC),
        )

    def _save(self) -> None:
        """Store and report a checkpoint of this step, unless it is stored."""
        if self._step == self._saved_step:
            return
        elapsed = int(self._lease.clock.elapsed())
        ref = f"{self._spec.checkpoint_prefix}/step-{self._step:06d}"
        directory = self._directory / "checkpoints" / f"{self._step}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "state.bin").write_bytes(random.Random(self._step).randbytes(50_000))
        (directory / "position.json").write_text(f'{{"step": {self._step}}}')
        try:
            manifest = self._artifacts.take_directory(ref, directory, {})
        except STORE_ERRORS as error:
            self._reporter.log(f"could not store step {self._step}: {error!r}", "WARNING")
            return
        self._facts.write("checkpoint", ref=ref, elapsed=elapsed, sha256=manifest.sha256)
        self._saved_step = self._step
        self._reporter.saved(
            SavedCheckpoint(
                segment=self._spec.segment,
                ref=ref,
                manifest_sha256=manifest.sha256,
                step=self._step,
                train_loss=1.0,
                elapsed_seconds=elapsed,
                total_bytes=manifest.total_bytes,
                state=STATE,
            )
        )

    def _resume(self) -> None:
        """Continue from the newest checkpoint whose files have the hashes of the event log."""
        rejected: list[RejectedCheckpoint] = []
        for saved in self._spec.resume_from:
            try:
                target = self._directory / "resumed" / str(saved.step)
                manifest = self._artifacts.get_directory(saved.ref, target)
            except FileNotFoundError:
                reason = RejectionReason.MISSING
            except ArtifactCorrupt:
                reason = RejectionReason.CORRUPT
            else:
                if manifest.sha256 == saved.manifest_sha256:
                    self._step = self._saved_step = saved.step
                    self._certify(saved)
                    return
                reason = RejectionReason.CORRUPT
            rejected.append(RejectedCheckpoint(ref=saved.ref, reason=reason))
            self._reporter.update(now=True, rejected=tuple(rejected))

    def _certify(self, saved: SavedCheckpoint) -> None:
        certificate = ResumeCertificate(
            step=saved.step, ref=saved.ref, state=STATE, unchecked=(), ranks=1, differences=()
        )
        self._reporter.update(now=True, resumed=certificate)

    def _register(self) -> None:
        directory = self._directory / "adapter"
        directory.mkdir(exist_ok=True)
        save_file(_adapter(), directory / "adapter_model.safetensors")
        (directory / "adapter_config.json").write_text(json.dumps(ADAPTER))
        manifest = self._artifacts.put_directory(self._spec.adapter_prefix, directory)
        self._reporter.update(
            adapter_ref=self._spec.adapter_prefix, adapter_manifest_sha256=manifest.sha256
        )


def _adapter() -> dict[str, np.ndarray]:
    """Return the tensors of a LoRA adapter for the query projections of the tiny model."""
    rank, size = ADAPTER["r"], TINY_SHAPE.hidden_size
    drawn = np.random.default_rng(0)
    shapes = {"lora_A": (rank, size), "lora_B": (size, rank)}
    return {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.{part}.weight": drawn.normal(
            0, 0.1, shape
        ).astype(np.float32)
        for layer in range(TINY_SHAPE.layers)
        for part, shape in shapes.items()
    }


def _evaluation() -> EvaluationResult:
    return EvaluationResult(loss_before=3.0, loss_after=2.0, examples=2, label_tokens=20)
