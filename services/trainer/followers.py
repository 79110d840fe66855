"""The processes of ranks 1 and up: started, watched and ended by rank 0, and what they run."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from domain.estimate import Precision
from domain.failures import FailureClass
from domain.phases import Phase
from infrastructure.reports import Checkpoint, EvaluationMeasured, SegmentSpec, StepMeasured
from infrastructure.settings import Settings
from services.trainer.clock import SegmentClock
from services.trainer.downloads import LeasedArtifacts
from services.trainer.failures import SegmentFailure, classify
from services.trainer.lease import Lease
from services.trainer.stack import lean_imports

PR_SET_PDEATHSIG = 1
WATCH_SECONDS = 0.1
SETTLE_SECONDS = 3.0  # for rank 0 to notice by itself, by a broken connection, that one is gone

# How a rank's broken connection is classed, by its phase.
UNSPECIFIC = {FailureClass.TRAINER_CRASHED, FailureClass.MODEL_LOAD_FAILED}


class LastWords(BaseModel):
    """What a follower leaves in a file when it fails."""

    model_config = ConfigDict(frozen=True)

    failure: FailureClass
    traceback: str


class FollowerLost(SegmentFailure):
    """A rank ended before its work was done."""

    def __init__(self, rank: int, exit_code: int, words: LastWords | None) -> None:
        how = f"was killed by signal {-exit_code}" if exit_code < 0 else f"exited with {exit_code}"
        super().__init__(f"rank {rank} {how}")
        self.failure = words.failure if words else FailureClass.TRAINER_CRASHED
        self.traceback = words.traceback if words else ""


class Followers:
    """Child processes that live no longer than this one, in a segment of `count` ranks."""

    def __init__(self, spec_path: Path, count: int) -> None:
        self._spec_path = spec_path
        rendezvous_path(spec_path).unlink(missing_ok=True)
        self._processes = {rank: self._start(rank) for rank in range(1, count)}
        self._leaving = threading.Lock()
        self._left = threading.Event()

    def watch(self, abandon: Callable[[FollowerLost], None]) -> None:
        """From a thread of its own: if a follower is lost, and rank 0 hangs, `abandon` ends all.

        Over gloo rank 0 hears a broken connection and leaves by itself; a collective between GPUs
        waits for good.
        """
        threading.Thread(target=self._watch, args=(abandon,), name="followers", daemon=True).start()

    def lost(self) -> FollowerLost | None:
        """A follower that failed; of several, one that knows why rather than its victims."""
        codes = {rank: process.poll() for rank, process in self._processes.items()}
        losses = [FollowerLost(r, code, self._words(r)) for r, code in codes.items() if code]
        losses.sort(key=lambda loss: loss.failure in UNSPECIFIC)
        return losses[0] if losses else None

    def behind(self, error: Exception, failure: FailureClass) -> FollowerLost | None:
        """The lost follower of which an unspecific error in rank 0 is only the echo, if any."""
        if failure not in UNSPECIFIC or not self._processes:
            return None
        settled = threading.Event()
        for _ in range(round(SETTLE_SECONDS / WATCH_SECONDS)):
            if (loss := self.lost()) is not None:
                loss.__cause__ = error
                return loss
            settled.wait(WATCH_SECONDS)
        return None

    def end(self) -> None:
        """Kill whoever still runs; rank 0 is past its last exchange with them.

        Does not return if the watch is already ending this process.
        """
        self._leaving.acquire()
        self._left.set()
        for process in self._processes.values():
            process.kill()
            process.wait()

    def _start(self, rank: int) -> subprocess.Popen[bytes]:
        self._words_path(rank).unlink(missing_ok=True)
        arguments = [str(self._spec_path), str(rank), str(os.getpid())]
        return subprocess.Popen([sys.executable, "-m", "services.trainer", *arguments])

    def _watch(self, abandon: Callable[[FollowerLost], None]) -> None:
        while (loss := self.lost()) is None:
            if self._left.wait(WATCH_SECONDS):
                return
        if not self._left.wait(SETTLE_SECONDS) and self._leaving.acquire(blocking=False):
            abandon(loss)

    def _words(self, rank: int) -> LastWords | None:
        try:
            return LastWords.model_validate_json(self._words_path(rank).read_text())
        except (FileNotFoundError, ValueError):  # killed, or killed while it wrote
            return None

    def _words_path(self, rank: int) -> Path:
        return words_path(self._spec_path, rank)


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


def follow(spec_path: Path, rank: int, leader_pid: int, settings: Settings) -> int:
    """Run a segment as one of its followers; returns the exit code.

    A follower has no lease of its own: rank 0 decides, and the kernel ends this process with it.
    """
    _die_with(leader_pid)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    spec = SegmentSpec.model_validate_json(spec_path.read_text())
    lease = Lease(SegmentClock(), float("inf"), float("inf"))
    reporter = Quiet()
    try:
        lean_imports(quantised=spec.precision is Precision.NF4)
        from services.trainer.ranks import Ranks
        from services.trainer.segment import Segment

        ranks = Ranks.join(rank, spec.gpu_count, rendezvous_path(spec_path), spec.stall_seconds)
        artifacts = LeasedArtifacts(settings.artifacts, lease)
        Segment(spec, artifacts, spec_path.parent, reporter, lease, ranks).run()
    except Exception as error:  # noqa: BLE001  # whatever it is, rank 0 has to know
        words = LastWords(failure=classify(error, reporter.phase), traceback=traceback.format_exc())
        words_path(spec_path, rank).write_text(words.model_dump_json())
        return 1
    return 0


def rendezvous_path(spec_path: Path) -> Path:
    """Where the ranks of a segment find each other."""
    return spec_path.with_name("rendezvous")


def words_path(spec_path: Path, rank: int) -> Path:
    """Where a follower leaves its last words."""
    return spec_path.with_name(f"rank-{rank}.json")


def _die_with(leader_pid: int) -> None:
    """Have the kernel kill this process when rank 0 ends. Source: prctl(2), PR_SET_PDEATHSIG."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != leader_pid:
        sys.exit("rank 0 ended before its follower began")
