"""Saving: a segment's checkpoints are copied in a moment and stored while training goes on."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel

from domain.training.checkpoint import StateHashes
from infrastructure.artifacts import STORE_ERRORS, Artifacts, Manifest
from infrastructure.reports import Checkpoint, SegmentSpec
from services.trainer import checkpoint
from services.trainer.checkpoint import Position
from services.trainer.checkpoint_loader import Resuming
from services.trainer.data_position import data_position_sha256
from services.trainer.execution import ExecutionMode
from services.trainer.lease import Lease
from services.trainer.plan import Plan
from services.trainer.processes.ranks import Ranks
from services.trainer.progress import BeforeSaving, Progress
from services.trainer.reporter_port import ReporterPort
from services.trainer.sampling import Sample
from services.trainer.state import Live, TrainingState, random_states

NICENESS = 10
"""Of the thread that stores: a tenth of a core where all are wanted, and what is idle else."""

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
"""Numbers of a run that outlast a segment."""


@dataclass(frozen=True)
class Taken:
    """A checkpoint that is copied, and not stored yet."""

    position: Position
    state: TrainingState
    sample: Sample | None
    elapsed_seconds: float  # when it was copied
    began: float  # in time.monotonic()
    blocked_seconds: float  # that training waited for the copy


class Checkpoints:
    """The checkpoints of a segment: the one that it resumes from, and those that it saves.

    All ranks save, for each has its random state to give; all else is alike in them, so that only
    rank 0 copies it and stores anything. It does so in a thread, one checkpoint at a time. One that
    the store, the disk or the network did not take was never saved, and the next is stored while
    training waits: only what it does not take either ends the segment.
    """

    def __init__(
        self,
        spec: SegmentSpec,
        artifacts: Artifacts,
        scratch: Path,
        reporter: ReporterPort,
        lease: Lease,
        ranks: Ranks,
        progress: Progress,
    ) -> None:
        self._spec, self._artifacts, self._scratch = spec, artifacts, scratch
        self._reporter, self._lease, self._ranks = reporter, lease, ranks
        self._progress = progress
        self._resuming = Resuming(spec, artifacts, scratch, reporter, ranks)
        self._live: Live | None = None
        self._state: TrainingState | None = None  # as it was saved last; nobody reads it any more
        self._writer = ThreadPoolExecutor(1, "checkpoint", initializer=_give_way)
        self._writing: Future[Exception | None] | None = None
        self._before: BeforeSaving | None = None  # the checkpoint that was saved last
        self._idle = threading.Event()  # nothing is being stored
        self._idle.set()

    def fetch(self, natural: ExecutionMode) -> ExecutionMode:
        """Fetch the checkpoint to resume from, if there is one, and take up its numbers.

        Returns how to compute: as the checkpoint did, or naturally without one. Raises
        CheckpointMismatch.
        """
        position = self._resuming.fetch()
        self._continue_from(position)
        return natural if position is None else natural.continuing(position.mode)

    def begin(
        self,
        model: PeftModel,
        optimizer: torch.optim.Optimizer,
        plan: Plan,
        mode: ExecutionMode,
    ) -> None:
        """Take what is to be saved, restored to the fetched checkpoint if there is one.

        Raises CheckpointMismatch.
        """
        self._model, self._optimizer, self._plan, self._mode = model, optimizer, plan, mode
        self._continue_from(self._resuming.restore(model, optimizer, plan, mode))

    @property
    def due(self) -> bool:
        """Whether this step is one after which to save: by the interval, or as the best so far."""
        by_interval = self._progress.step % self._spec.hyperparameters.save_steps == 0
        return by_interval or self._progress.is_best

    def save(self, sample: Sample | None = None, *, beside: bool = True) -> None:
        """Save a checkpoint of this step, unless there is one.

        With `beside` it is stored while training goes on, if the one before was; else it is durable
        when this returns. Raises what goes wrong, and what went wrong with the one before unless
        it was the store's.
        """
        began = time.monotonic()
        stored = self.flush()
        if self._progress.step == self._progress.saved_step:
            return
        elapsed_seconds = self._lease.clock.elapsed()
        self._before = self._progress.note_checkpoint()
        random = random_states(self._ranks)
        position = self._position()
        if not self._ranks.leads:
            return
        if self._live is None:
            self._live = Live(self._model, self._optimizer)
        self._state = state = self._live.copied(random, self._state)
        blocked_seconds = time.monotonic() - began
        taken = Taken(position, state, sample, elapsed_seconds, began, blocked_seconds)
        self._idle.clear()
        if beside and stored:
            self._writing = self._writer.submit(self._store, taken)
        elif (error := self._store(taken)) is not None:
            raise error

    def flush(self) -> bool:
        """Wait for what is being stored; False if the store did not take it: it was never saved.

        All ranks do so together, for they save the same steps. Raises what else went wrong.
        """
        error = None
        if self._writing is not None:
            writing, self._writing = self._writing, None
            error = writing.result()
        failed = self._ranks.agree(error is not None)
        if failed:
            self._tell_lost(error)
            assert self._before is not None
            self._progress.forget_checkpoint(self._before)
        return not failed

    def close(self) -> None:
        """Wait for what is being stored, whatever comes of it: the segment ends anyway."""
        self._writer.shutdown()
        if self._writing is None:
            return
        error = self._writing.exception() or self._writing.result()
        if error is not None:
            self._tell_lost(error)

    def await_stored(self, seconds: float) -> None:
        """Wait for what is being stored, in another thread than the segment's, for so long at most.

        The segment's own may hang, and need not have got as far as to `flush` or `close`.
        """
        if self._idle.is_set():
            return
        step = self._progress.saved_step
        self._reporter.log(f"the checkpoint of step {step} is still being stored")
        if not self._idle.wait(seconds):
            self._reporter.log(
                f"the checkpoint of step {step} is not stored after {seconds:.0f} s", "WARNING"
            )

    def _tell_lost(self, error: BaseException | None) -> None:
        step = self._progress.saved_step
        self._reporter.log(f"the checkpoint of step {step} was not stored: {error!r}", "WARNING")

    def _continue_from(self, position: Position | None) -> None:
        """Take up the numbers of a checkpoint, or begin with none."""
        start = Progress() if position is None else position
        self._progress.saved_step = start.step
        for name in CONTINUED:
            setattr(self._progress, name, getattr(start, name))

    def _position(self) -> Position:
        spec, progress = self._spec, self._progress
        return Position(
            step=progress.step,
            trained_tokens=progress.trained_tokens,
            train_loss=progress.train_loss,
            smoothed_loss=progress.smoothed_loss,
            dataset_sha256=spec.dataset_sha256,
            base_model=spec.base_model,
            hyperparameters=spec.hyperparameters,
            precision=spec.precision,
            mode=self._mode,
            validation_sha256=spec.validation_sha256,
            eval_loss=progress.eval_loss,
            lowest_loss=progress.lowest_loss,
            starting_loss=progress.starting_loss,
            suspect_steps=progress.suspect_steps,
            best_step=progress.best_step,
            best_eval_loss=progress.best_eval_loss,
        )

    def _store(self, taken: Taken) -> Exception | None:
        """Store a checkpoint and report it; returns why not, if the store did not take it.

        Then nothing is left of it.
        """
        position, state = taken.position, taken.state
        ref = f"{self._spec.checkpoint_prefix}/step-{position.step:06d}"
        try:
            hashes = state.hashes(data_position_sha256(self._plan, position.step))
            position = position.model_copy(update={"state": hashes})
            manifest = checkpoint.save(
                self._artifacts, ref, self._scratch, self._model, state, position, taken.sample
            )
        except STORE_ERRORS as error:
            checkpoint.discard(self._artifacts, ref, self._scratch, position.step)
            return error
        else:
            self._lease.progress()
            self._tell_stored(taken, ref, manifest, hashes)
            return None
        finally:
            self._idle.set()

    def _tell_stored(self, taken: Taken, ref: str, manifest: Manifest, hashes: StateHashes) -> None:
        position = taken.position
        self._reporter.saved(
            Checkpoint(
                ref=ref,
                manifest_sha256=manifest.sha256,
                step=position.step,
                train_loss=position.train_loss,
                elapsed_seconds=taken.elapsed_seconds,
                total_bytes=manifest.total_bytes,
                state=hashes,
                eval_loss=position.eval_loss,
            )
        )
        self._reporter.log(
            f"saved step {position.step}: training waited {taken.blocked_seconds:.3f} s, "
            f"durable after {time.monotonic() - taken.began:.3f} s",
            "DEBUG",
        )


def _give_way() -> None:
    """Leave the cores to training: a core that is taken from one of its threads stops them all."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
