"""The processes of ranks 1 and up: what they run, and how rank 0 hears that one is lost."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from domain.estimating.estimate import Precision
from domain.jobs.failures import FailureClass, MemoryShortage
from domain.training.phases import Phase
from infrastructure.reports import Checkpoint, EvaluationMeasured, SegmentSpec, StepMeasured
from infrastructure.settings import Settings
from services.model_libraries import lean_imports
from services.trainer.clock import SegmentClock
from services.trainer.context import Context
from services.trainer.downloads import LeasedArtifacts
from services.trainer.failures import SegmentFailure, classify, shortage_of
from services.trainer.lease import Lease

PR_SET_PDEATHSIG = 1
WATCH_SECONDS = 0.1
SETTLE_SECONDS = 3.0  # for rank 0 to notice by itself, by a broken connection, that one is gone
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # names a rank's own; each has a folder of its number

# How a rank's broken connection is classed, by its phase.
UNSPECIFIC = {FailureClass.TRAINER_CRASHED, FailureClass.MODEL_LOAD_FAILED}


class LastWords(BaseModel):
    """What a follower leaves in its error file when it fails, as torch's agent reads it too."""

    model_config = ConfigDict(frozen=True)

    message: str  # the traceback
    timestamp: int  # seconds since 1970
    failure: FailureClass
    shortage: MemoryShortage | None = None


class FollowerLost(SegmentFailure):
    """A rank ended before its work was done."""

    def __init__(self, rank: int, exit_code: int, words: LastWords | None) -> None:
        super().__init__(how_ended(rank, exit_code))
        self.failure = words.failure if words else _unsaid(exit_code)
        self.shortage = words.shortage if words else None
        self.traceback = words.message if words else ""
        # One lost rank breaks the others' connections, and then the agent ends them.
        said = words is not None and self.failure not in UNSPECIFIC
        self.echoes = (not said, exit_code == -signal.SIGTERM, words is not None)


class Followers:
    """What rank 0 hears of the others in a segment of `count` ranks: the agent notes their ends."""

    def __init__(self, spec_path: Path, count: int) -> None:
        self._spec_path, self._count = spec_path, count
        self._leaving = threading.Lock()
        self._left = threading.Event()

    def watch(self, abandon: Callable[[FollowerLost], None]) -> None:
        """From a thread of its own: if a follower is lost, and rank 0 hangs, `abandon` ends all.

        Over gloo rank 0 hears a broken connection and leaves by itself; a collective between GPUs
        waits for good.
        """
        if self._count > 1:
            threading.Thread(
                target=self._watch, args=(abandon,), name="followers", daemon=True
            ).start()

    def lost(self) -> FollowerLost | None:
        """A follower that failed; of several, one that knows why rather than its victims."""
        losses = [
            FollowerLost(rank, int(path.read_text()), _last_words(rank))
            for rank in range(1, self._count)
            if (path := exit_path(self._spec_path, rank)).exists()
        ]
        return min(losses, key=lambda loss: loss.echoes, default=None)

    def behind(self, error: Exception, failure: FailureClass) -> FollowerLost | None:
        """The lost follower of which an unspecific error in rank 0 is only the echo, if any."""
        if failure not in UNSPECIFIC or self._count == 1:
            return None
        settled = threading.Event()
        for _ in range(round(SETTLE_SECONDS / WATCH_SECONDS)):
            if (loss := self.lost()) is not None:
                loss.__cause__ = error
                return loss
            settled.wait(WATCH_SECONDS)
        return None

    def leave(self) -> None:
        """Rank 0 is past its last exchange with the others; who is lost from now on is not missed.

        Does not return if the watch is already ending this process.
        """
        self._leaving.acquire()
        self._left.set()

    def _watch(self, abandon: Callable[[FollowerLost], None]) -> None:
        while (loss := self.lost()) is None:
            if self._left.wait(WATCH_SECONDS):
                return
        if not self._left.wait(SETTLE_SECONDS) and self._leaving.acquire(blocking=False):
            abandon(loss)


class Quiet:
    """A follower's reporter: rank 0 says it all."""

    phase = Phase.IMAGE_PULL

    def enter(self, phase: Phase) -> None:
        """Only taken note of."""
        self.phase = phase

    def update(self, *, now: bool = False, **fields: Any) -> None:
        """Nothing is reported."""

    def measure(self, measured: StepMeasured) -> None:
        """Nothing is reported."""

    def evaluated(self, measured: EvaluationMeasured) -> None:
        """Nothing is reported."""

    def saved(self, checkpoint: Checkpoint) -> None:
        """Nothing is reported."""

    def log(self, text: str, level: str = "INFO") -> None:
        """Nothing is reported."""


def follow(spec_path: Path, settings: Settings) -> int:
    """Run a segment as one of its followers; returns the exit code.

    A follower has no lease of its own: rank 0 decides. Torch's agent ends it with SIGTERM.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    spec = SegmentSpec.model_validate_json(spec_path.read_text())
    lease = Lease(SegmentClock(), float("inf"), float("inf"))
    reporter = Quiet()
    try:
        lean_imports(quantised=spec.precision is Precision.NF4)
        from services.trainer import segment
        from services.trainer.checkpoint_writer import Checkpoints
        from services.trainer.processes.ranks import Ranks

        ranks = Ranks.join(rendezvous_path(spec_path), spec.stall_seconds)
        artifacts = LeasedArtifacts(settings.artifacts, lease)
        directory = spec_path.parent
        context = Context(spec, artifacts, directory, settings.cache, reporter, lease, ranks)
        segment.run(context, Checkpoints(context))
    except Exception as error:  # noqa: BLE001  # whatever it is, rank 0 has to know
        words = LastWords(
            message=traceback.format_exc(),
            timestamp=int(time.time()),
            failure=classify(error, reporter.phase),
            shortage=shortage_of(error),
        )
        Path(os.environ[ERROR_FILE]).write_text(words.model_dump_json())
        return 1
    return 0


def rendezvous_path(spec_path: Path) -> Path:
    """Where the ranks of a segment find each other."""
    return spec_path.with_name("rendezvous")


def words_path(rank: int) -> Path:
    """Where a rank leaves its last words: beside this process's own, by its number."""
    own = Path(os.environ[ERROR_FILE])
    return own.parent.with_name(str(rank)) / own.name


def _unsaid(exit_code: int) -> FailureClass:
    """The class of an end without words: SIGKILL is the machine's, as it is of a pod's own end."""
    killed = exit_code == -signal.SIGKILL
    return FailureClass.NODE_LOST if killed else FailureClass.TRAINER_CRASHED


def _last_words(rank: int) -> LastWords | None:
    try:
        return LastWords.model_validate_json(words_path(rank).read_text())
    except (FileNotFoundError, ValueError):  # killed, or killed while it wrote
        return None


def how_ended(rank: int, exit_code: int) -> str:
    """The end of a rank in words; negative: the signal that killed it."""
    how = f"was killed by signal {-exit_code}" if exit_code < 0 else f"exited with {exit_code}"
    return f"rank {rank} {how}"


def note_exit(spec_path: Path, rank: int, code: int) -> None:
    """Let rank 0 know that another one failed, and how; negative: the signal that killed it."""
    partial = exit_path(spec_path, rank).with_suffix(".partial")
    partial.write_text(str(code))
    partial.rename(exit_path(spec_path, rank))


def exit_path(spec_path: Path, rank: int) -> Path:
    """Where the failure of a rank is noted."""
    return spec_path.with_name(f"rank-{rank}.exit")


def die_with(pid: int) -> None:
    """Have the kernel kill this process when its parent ends. Source: prctl(2)."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != pid:
        sys.exit("the launcher ended before its rank began")
