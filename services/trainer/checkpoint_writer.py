"""Saving of checkpoints: copy the state, and then store the copy while training continues."""

from __future__ import annotations

import os
import shutil
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from domain.jobs.failures import FailureClass
from domain.training.checkpoint import (
    KEPT_NEWEST,
    RejectionReason,
    SavedCheckpoint,
    StateHashes,
    superfluous,
)
from infrastructure.artifacts.store import STORE_ERRORS, Manifest
from infrastructure.chat.chat_template import CHAT_TEMPLATE
from services.trainer import checkpoint
from services.trainer.checkpoint import Position
from services.trainer.checkpoint_loader import CheckpointLoader
from services.trainer.context import Context
from services.trainer.execution import ExecutionMode
from services.trainer.failures import SegmentFailure
from services.trainer.plan import data_position_sha256
from services.trainer.progress import Progress
from services.trainer.sampling import Sample
from services.trainer.state import LiveState, TrainingState, random_states
from services.trainer.training import Training
from services.trainer.unsent import Unsent

NICENESS = 10
"""Niceness of the storing thread: a tenth of a core if training uses all of them."""


NOT_STORED = "Rank 0 could not store or read a checkpoint."


class NotStored(SegmentFailure):
    """Rank 0 could not store or read a checkpoint of the job. Rank 0 itself raises the cause."""

    failure = FailureClass.TRAINER_CRASHED


@dataclass(frozen=True)
class Copied:
    """A copied checkpoint that is not stored yet."""

    training: Training
    name: str  # of the checkpoint's directory
    position: Position
    state: TrainingState
    sample: Sample | None
    unsent: Unsent
    elapsed_seconds: float  # segment time of the copy
    began: float  # time.monotonic() at the start
    blocked_seconds: float  # seconds that training waited for the copy


class Checkpoints:
    """The checkpoint from which a segment resumes, and the checkpoints that it saves.

    All ranks take part in a save, because each contributes its random state. All other state is
    equal in all ranks, so only rank 0 copies and stores it. A thread stores one checkpoint at a
    time. If the store, the disk or the network fails, the checkpoint counts as not saved, and
    training waits while the next one is stored. If that fails too, the segment ends.
    """

    def __init__(self, context: Context) -> None:
        self.progress = Progress()
        # Chat template to store with the adapter; None: the base model has one.
        self.chat_template: str | None = None
        self._context, self._ranks, self._reporter = context, context.ranks, context.reporter
        self._loader = CheckpointLoader(context)
        self._live: LiveState | None = None
        # Last saved copy, whose memory the next one reuses.
        self._state: TrainingState | None = None
        self._writer = ThreadPoolExecutor(1, "checkpoint", initializer=_lower_priority)
        self._writing: Future[Exception | None] | None = None
        self._before = self.progress  # counters before the last save
        # Rank 0 only: checkpoints of this job that exist, as far as this segment knows.
        self._existing = list(reversed(context.spec.resume_from))  # oldest first
        self._idle = threading.Event()  # set while nothing is being stored
        self._idle.set()

    def fetch(self, own: ExecutionMode) -> ExecutionMode:
        """Fetch the checkpoint to resume from, if any. Return `own`, adapted to its mode."""
        position = self._loader.fetch()
        self.progress = Progress.resumed(position)
        return own if position is None else own.continuing(position.mode)

    def restore(self, training: Training, mode: ExecutionMode, held_out: int = 0) -> None:
        """Restore the fetched checkpoint, if any, with its reference of `held_out` pairs."""
        self.progress = Progress.resumed(self._loader.restore(training, mode, held_out))

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
        in_background: bool = True,
    ) -> None:
        """Save a checkpoint of this step, unless one exists.

        If `in_background` is true, the checkpoint is stored while training continues, provided that
        the previous one was stored. Otherwise, the call returns when the checkpoint is durable, or
        raises the error.
        """
        began = time.monotonic()
        stored = self.flush()
        name = f"step-{self.progress.step:06d}"
        if self.progress.step == self.progress.saved_step:
            if not self.progress.is_best:
                return
            name += "-evaluated"  # the segment had saved the step before the evaluation
        elapsed_seconds = self._context.lease.clock.elapsed()
        self._before = self.progress.note_checkpoint()
        random = random_states(self._ranks)
        copied = None
        if self._ranks.leads:
            if self._live is None:
                self._live = LiveState(training.adapted, training.optimizer)
            self._state = state = self._live.copied(random, self._state)
            blocked_seconds = time.monotonic() - began
            position = self._position(mode)
            copied = Copied(
                training,
                name,
                position,
                state,
                sample,
                self._reporter.unsent,
                elapsed_seconds,
                began,
                blocked_seconds,
            )
            self._idle.clear()
        if not (in_background and stored):
            self.require(None if copied is None else self._stored(copied))
        elif copied is not None:
            self._writing = self._writer.submit(self._store, copied)

    def best_first(self, most: float) -> list[SavedCheckpoint]:
        """Return checkpoints up to this loss, best and then earliest first, in rank 0."""
        best = self.progress.best
        scored = [
            (saved.eval_loss, saved.step, saved)
            for saved in self._existing
            if saved.eval_loss is not None and saved.step < self.progress.step
        ]
        scored = [each for each in scored if best is not None and best.loss <= each[0] <= most]
        return [saved for *_, saved in sorted(scored, key=lambda each: each[:2])]

    def reject(self, saved: SavedCheckpoint, reason: RejectionReason, error: object) -> None:
        """Report that the checkpoint of a state to register is unusable."""
        self._reporter.log(
            f"cannot register the checkpoint of step {saved.step:,}, {saved.ref} ({error}): trying "
            "the next-best state",
            "WARNING",
        )
        self._loader.reject(saved, reason)

    def flush(self) -> bool:
        """Wait for the checkpoint that is being stored. Return False if storing it failed.

        All ranks must call this together. All raise an error that the store did not cause, or that
        lost the best state, if the job registers it. A resume then repeats the step.
        """
        error = None
        if self._writing is not None:
            writing, self._writing = self._writing, None
            error = writing.exception() or writing.result()
        failed = self._ranks.agree(error is not None)
        if failed:
            self._log_lost(error)
            needed = self._context.spec.hyperparameters.load_best_model_at_end
            best_lost = needed and self.progress.best_step != self._before.best_step
            fatal = best_lost or not isinstance(error, STORE_ERRORS)
            self.require(error if fatal else None)
            self.progress.forget_checkpoint(self._before)
        return not failed

    def require(self, error: BaseException | None) -> None:
        """Raise in all ranks if rank 0 has an error."""
        if self._ranks.agree(error is not None):
            raise error or NotStored(NOT_STORED)

    def _stored(self, copied: Copied) -> BaseException | None:
        """Store a checkpoint in this thread. Return its error, if any."""
        try:
            return self._store(copied)
        except Exception as error:  # noqa: BLE001  # all ranks must learn of any error
            return error

    def close(self) -> None:
        """Wait for the checkpoint that is being stored. Log a failure instead of raising it."""
        self._writer.shutdown()
        if self._writing is not None:
            error = self._writing.exception() or self._writing.result()
            if error is not None:
                self._log_lost(error)

    def await_stored(self, seconds: float) -> None:
        """Wait up to `seconds` for the checkpoint that is being stored. Thread-safe."""
        if self._idle.is_set():
            return
        step = self.progress.saved_step
        self._reporter.log(f"the checkpoint of step {step:,} is still being stored")
        if not self._idle.wait(seconds):
            self._reporter.log(
                f"the checkpoint of step {step:,} is not stored after {seconds:.0f} s", "WARNING"
            )

    def _log_lost(self, error: BaseException | None) -> None:
        step = self.progress.saved_step
        self._reporter.log(f"could not store the checkpoint of step {step:,}: {error!r}", "WARNING")

    def _position(self, mode: ExecutionMode) -> Position:
        spec = self._context.spec
        return Position(
            **self.progress.values(),
            dataset_sha256=spec.dataset_sha256,
            base_model=spec.base_model,
            hyperparameters=spec.hyperparameters,
            precision=spec.precision,
            mode=mode,
            validation_sha256=spec.validation_sha256,
        )

    def _store(self, copied: Copied) -> Exception | None:
        """Store and report a checkpoint. Return the error if the store, disk or network failed."""
        training, position, state = copied.training, copied.position, copied.state
        artifacts, name = self._context.artifacts, copied.name
        ref = f"{self._context.spec.checkpoint_prefix}/{name}"
        directory = self._context.scratch / "checkpoints" / name
        try:
            hashes = state.hashes(data_position_sha256(training.plan, position.step))
            position = position.model_copy(update={"state": hashes})
            written = checkpoint.write(
                directory, training.adapted, state, position, copied.sample, training.reference
            )
            copied.unsent.write(directory)
            if self.chat_template is not None:
                (directory / CHAT_TEMPLATE).write_text(self.chat_template)
            manifest = artifacts.take_directory(ref, directory, written)
        except STORE_ERRORS as error:
            shutil.rmtree(directory, ignore_errors=True)
            with suppress(*STORE_ERRORS):  # EcoLink deletes the files later, with those of the job
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
        saved = SavedCheckpoint(
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
        self._existing.append(saved)
        wanted = self._context.spec.hyperparameters.n_checkpoints or KEPT_NEWEST
        gone = superfluous(self._existing, max(wanted, KEPT_NEWEST))  # the scheduler deletes them
        self._existing = [each for each in self._existing if each not in gone]
        self._reporter.saved(saved)
        self._reporter.log(
            f"saved step {position.step:,}: training waited {copied.blocked_seconds:.3f} s, "
            f"durable after {time.monotonic() - copied.began:.3f} s",
            "DEBUG",
        )


def _lower_priority() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
