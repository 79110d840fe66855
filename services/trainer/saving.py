"""Saving and resuming: when checkpoints are made, where they go, and how one is taken up."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel

from infrastructure.artifacts import Artifacts
from infrastructure.reports import Checkpoint, SegmentSpec
from services.trainer import checkpoint
from services.trainer.lease import Lease
from services.trainer.progress import Progress
from services.trainer.ranks import Ranks
from services.trainer.voice import Voice


class Checkpoints:
    """The checkpoints of a segment: the one that it resumes from, and those that it saves.

    All ranks save, for each has its random state to give; only rank 0 stores anything.
    """

    def __init__(
        self,
        spec: SegmentSpec,
        artifacts: Artifacts,
        scratch: Path,
        reporter: Voice,
        lease: Lease,
        ranks: Ranks,
        progress: Progress,
    ) -> None:
        self._spec, self._artifacts, self._scratch = spec, artifacts, scratch
        self._reporter, self._lease, self._ranks = reporter, lease, ranks
        self._progress = progress
        self._saved_step = 0  # of the newest checkpoint
        self._resumed: Path | None = None
        self._dtype = torch.float32

    def fetch(self, dtype: torch.dtype) -> torch.dtype:
        """Fetch the checkpoint to resume from, if there is one, and take up its numbers.

        Returns the dtype to compute in: the checkpoint's, or the given one without a checkpoint.
        Raises CheckpointMismatch, ArtifactCorrupt.
        """
        self._dtype = dtype
        if self._spec.resume_from is not None:
            self._resumed, position = checkpoint.fetch(
                self._artifacts, self._spec.resume_from, self._scratch
            )
            self._dtype = getattr(torch, position.dtype)
            self._continue_from(position)
        return self._dtype

    def restore(self, model: PeftModel, optimizer: torch.optim.Optimizer) -> None:
        """Put the fetched checkpoint's state back, if there is one."""
        if self._resumed is not None:
            checkpoint.restore(self._resumed, model, optimizer, self._ranks)

    @property
    def due(self) -> bool:
        """Whether this step is one after which to save."""
        return self._progress.step % self._spec.hyperparameters.save_steps == 0

    def save(self, model: PeftModel, optimizer: torch.optim.Optimizer) -> None:
        """Save a checkpoint of this step, unless there is one."""
        if self._progress.step == self._saved_step:
            return
        self._progress.note_checkpoint()
        position = self._position()
        random = checkpoint.random_states(self._ranks)
        self._saved_step = position.step
        self._progress.begin_mean()
        if self._ranks.leads:
            self._store(position, model, optimizer, random)

    def _continue_from(self, position: checkpoint.Position) -> None:
        """Take up the numbers of a checkpoint; raises CheckpointMismatch."""
        position.require_same_job(self._position())
        self._progress.step = self._saved_step = position.step
        for name in ("trained_tokens", "lowest_loss", "best_step", "best_eval_loss"):
            setattr(self._progress, name, getattr(position, name))
        self._reporter.log(f"resumed at step {position.step} from {self._spec.resume_from}")
        if position.threads != torch.get_num_threads():
            self._reporter.log(
                f"the checkpoint was made with {position.threads} threads, this segment has "
                f"{torch.get_num_threads()}: losses may differ in the last digits",
                "WARNING",
            )

    def _position(self) -> checkpoint.Position:
        spec, progress = self._spec, self._progress
        return checkpoint.Position(
            step=progress.step,
            trained_tokens=progress.trained_tokens,
            train_loss=progress.train_loss,
            dataset_sha256=spec.dataset_sha256,
            base_model=spec.base_model,
            hyperparameters=spec.hyperparameters,
            dtype=str(self._dtype).removeprefix("torch."),
            threads=torch.get_num_threads(),
            precision=spec.precision,
            ranks=self._ranks.count,
            validation_sha256=spec.validation_sha256,
            eval_loss=progress.eval_loss,
            lowest_loss=progress.lowest_loss,
            best_step=progress.best_step,
            best_eval_loss=progress.best_eval_loss,
        )

    def _store(
        self,
        position: checkpoint.Position,
        model: PeftModel,
        optimizer: torch.optim.Optimizer,
        random: dict[str, torch.Tensor],
    ) -> None:
        ref = f"{self._spec.checkpoint_prefix}/step-{position.step:06d}"
        manifest = checkpoint.save(
            self._artifacts, ref, self._scratch, model, optimizer, position, random
        )
        self._lease.progress()
        self._reporter.saved(
            Checkpoint(
                ref=ref,
                manifest_sha256=manifest.sha256,
                step=position.step,
                train_loss=position.train_loss,
                elapsed_seconds=self._lease.clock.elapsed(),
                total_bytes=manifest.total_bytes,
            )
        )
