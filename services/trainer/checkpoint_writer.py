"""Saving: a checkpoint is copied at once, and stored while training continues."""

from __future__ import annotations

import os
import shutil
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from domain.training.checkpoint import SavedCheckpoint, StateHashes
from infrastructure.artifacts import STORE_ERRORS, Manifest
from services.trainer import checkpoint
from services.trainer.checkpoint import Position
from services.trainer.checkpoint_loader import CheckpointLoader
from services.trainer.context import Context
from services.trainer.execution import ExecutionMode
from services.trainer.plan import data_position_sha256
from services.trainer.progress import BeforeSaving, Progress
from services.trainer.sampling import Sample
from services.trainer.state import Live, TrainingState, random_states
from services.trainer.training import Training

NICENESS = 10
"""Of the thread that stores: it gets a tenth of a core when all are busy."""

CONTINUED = (
    "step",
    "trained_tokens",
    "train_loss",
    "smoothed_loss",
    "lowest_loss",
    "starting_loss",
    "suspect_steps",
    "best_step",
    "best_eval_loss",
)
"""Numbers of a run that continue in the next segment."""


@dataclass(frozen=True)
class Copied:
    """A checkpoint that is copied and not yet stored."""

    training: Training
    position: Position
    state: TrainingState
    sample: Sample | None
    elapsed_seconds: float  # when it was copied
    began: float  # in time.monotonic()
    blocked_seconds: float  # that training waited for the copy


class Checkpoints:
    """The checkpoints of a segment: the one that it resumes from, and those that it saves.

    All ranks save, because each contributes its random state. All else is equal in them, so only
    rank 0 copies and stores it, in a thread, one checkpoint at a time. If the store, the disk or
    the network fails, the checkpoint counts as never saved, and training waits while the next one
    is stored. If that fails too, the segment ends.
    """

    def __init__(self, context: Context) -> None:
        self.progress = Progress()
        self._context, self._ranks, self._reporter = context, context.ranks, context.reporter
        self._loader = CheckpointLoader(context)
        self._live: Live | None = None
        self._state: TrainingState | None = None  # the last one saved; its memory is used again
        self._writer = ThreadPoolExecutor(1, "checkpoint", initializer=_lower_priority)
        self._writing: Future[Exception | None] | None = None
        self._before: BeforeSaving | None = None  # the checkpoint that was saved last
        self._idle = threading.Event()  # nothing is being stored
        self._idle.set()

    def fetch(self, natural: ExecutionMode) -> ExecutionMode:
        """Fetch the checkpoint to resume from, if there is one, and continue its numbers.

        Returns how to compute: like the checkpoint, or naturally without one. Raises
        CheckpointMismatch.
        """
        position = self._loader.fetch()
        self._continue_from(position)
        return natural if position is None else natural.continuing(position.mode)

    def restore(self, training: Training, mode: ExecutionMode) -> None:
        """Restore the fetched checkpoint, if there is one; raises CheckpointMismatch."""
        self._continue_from(self._loader.restore(training, mode))

    @property
    def due(self) -> bool:
        """True at every save interval, and if the held-out loss is the lowest so far."""
        interval = self._context.spec.hyperparameters.save_steps
        return self.progress.step % interval == 0 or self.progress.is_best

    def save(
        self,
        training: Training,
        mode: ExecutionMode,
        sample: Sample | None = None,
        *,
        beside: bool = True,
    ) -> None:
        """Save a checkpoint of this step, unless there is one.

        With `beside` it is stored while training continues, if the one before was stored. Else it
        is durable when this returns. Raises any error, and an error of the checkpoint before
        unless the store caused it.
        """
        began = time.monotonic()
        stored = self.flush()
        if self.progress.step == self.progress.saved_step:
            return
        elapsed_seconds = self._context.lease.clock.elapsed()
        self._before = self.progress.note_checkpoint()
        random = random_states(self._ranks)
        position = self._position(mode)
        if not self._ranks.leads:
            return
        if self._live is None:
            self._live = Live(training.adapted, training.optimizer)
        self._state = state = self._live.copied(random, self._state)
        blocked_seconds = time.monotonic() - began
        copied = Copied(training, position, state, sample, elapsed_seconds, began, blocked_seconds)
        self._idle.clear()
        if beside and stored:
            self._writing = self._writer.submit(self._store, copied)
        elif (error := self._store(copied)) is not None:
            raise error

    def flush(self) -> bool:
        """Wait for the checkpoint that is being stored; return False if it was not stored.

        All ranks call it together, because they save the same steps. Raises errors that are not
        the store's.
        """
        error = None
        if self._writing is not None:
            writing, self._writing = self._writing, None
            error = writing.result()
        failed = self._ranks.agree(error is not None)
        if failed:
            self._log_lost(error)
            assert self._before is not None
            self.progress.forget_checkpoint(self._before)
        return not failed

    def close(self) -> None:
        """Wait for the checkpoint that is being stored; log a failure, because the segment ends."""
        self._writer.shutdown()
        if self._writing is None:
            return
        error = self._writing.exception() or self._writing.result()
        if error is not None:
            self._log_lost(error)

    def await_stored(self, seconds: float) -> None:
        """Wait at most this long for the checkpoint that is being stored, in any thread.

        The segment's own thread may hang before it calls `flush` or `close`.
        """
        if self._idle.is_set():
            return
        step = self.progress.saved_step
        self._reporter.log(f"the checkpoint of step {step} is still being stored")
        if not self._idle.wait(seconds):
            self._reporter.log(
                f"the checkpoint of step {step} is not stored after {seconds:.0f} s", "WARNING"
            )

    def _log_lost(self, error: BaseException | None) -> None:
        step = self.progress.saved_step
        self._reporter.log(f"the checkpoint of step {step} was not stored: {error!r}", "WARNING")

    def _continue_from(self, position: Position | None) -> None:
        """Continue the numbers of a checkpoint, or start with none."""
        start = Progress() if position is None else position
        self.progress.saved_step = start.step
        for name in CONTINUED:
            setattr(self.progress, name, getattr(start, name))

    def _position(self, mode: ExecutionMode) -> Position:
        spec, progress = self._context.spec, self.progress
        return Position(
            dataset_sha256=spec.dataset_sha256,
            base_model=spec.base_model,
            hyperparameters=spec.hyperparameters,
            precision=spec.precision,
            mode=mode,
            validation_sha256=spec.validation_sha256,
            eval_loss=progress.eval_loss,
            **{name: getattr(progress, name) for name in CONTINUED},
        )

    def _store(self, copied: Copied) -> Exception | None:
        """Store a checkpoint and report it; return the error if the store, disk or network failed.

        A failed checkpoint is deleted here and in the store. If the store cannot be reached for
        that either, its files are deleted with the job's.
        """
        training, position, state = copied.training, copied.position, copied.state
        artifacts, name = self._context.artifacts, f"step-{position.step:06d}"
        ref = f"{self._context.spec.checkpoint_prefix}/{name}"
        directory = self._context.scratch / "checkpoints" / name
        try:
            hashes = state.hashes(data_position_sha256(training.plan, position.step))
            position = position.model_copy(update={"state": hashes})
            written = checkpoint.write(directory, training.adapted, state, position, copied.sample)
            manifest = artifacts.take_directory(ref, directory, written)
        except STORE_ERRORS as error:
            shutil.rmtree(directory, ignore_errors=True)
            with suppress(*STORE_ERRORS):
                artifacts.delete_directory(ref)
            return error
        else:
            self._context.lease.progress()
            self._report_stored(copied, ref, manifest, hashes)
            return None
        finally:
            self._idle.set()

    def _report_stored(
        self, copied: Copied, ref: str, manifest: Manifest, hashes: StateHashes
    ) -> None:
        position = copied.position
        self._reporter.saved(
            SavedCheckpoint(
                segment=self._context.spec.segment,
                ref=ref,
                manifest_sha256=manifest.sha256,
                step=position.step,
                train_loss=position.train_loss,
                elapsed_seconds=int(copied.elapsed_seconds),
                total_bytes=manifest.total_bytes,
                state=hashes,
                eval_loss=position.eval_loss,
            )
        )
        self._reporter.log(
            f"saved step {position.step}: training waited {copied.blocked_seconds:.3f} s, "
            f"durable after {time.monotonic() - copied.began:.3f} s",
            "DEBUG",
        )


def _lower_priority() -> None:
    """Leave the cores to training, which waits for its slowest thread."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
