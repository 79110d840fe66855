"""The processes of ranks 1 and up, and detection of their loss by rank 0."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from domain.jobs.failures import FailureClass, MemoryShortage
from domain.training.phases import Phase
from infrastructure.bus.exchange import read
from infrastructure.settings import Settings
from infrastructure.training.reports import SegmentSpec
from services.trainer.clock import SegmentClock
from services.trainer.context import Context
from services.trainer.failures import SegmentFailure, classify, shortage_of
from services.trainer.lease import Lease
from services.trainer.reporter_port import ReporterPort

PR_SET_PDEATHSIG = 1
WATCH_SECONDS = 0.1
SETTLE_SECONDS = 3.0  # for rank 0 to notice a broken connection
# Path of a rank's error file; each rank has a folder named by the rank.
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"

# Failure classes that rank 0 may report for a broken connection, depending on the phase.
UNSPECIFIC = {FailureClass.TRAINER_CRASHED, FailureClass.MODEL_LOAD_FAILED}


class RankError(BaseModel):
    """The error file of a failed follower, in the format that torch's agent reads."""

    model_config = ConfigDict(frozen=True)

    message: str  # the traceback
    timestamp: int  # seconds since 1970
    failure: FailureClass
    shortage: MemoryShortage | None = None


class FollowerLost(SegmentFailure):
    """A rank ended before its work was complete."""

    def __init__(self, rank: int, exit_code: int, error: RankError | None) -> None:
        super().__init__(describe_exit(rank, exit_code))
        self.failure = error.failure if error else _class_of(exit_code)
        self.shortage = error.shortage if error else None
        self.traceback = error.message if error else ""
        # A lost rank breaks the connections of the others, and then the agent ends them.
        specific = error is not None and self.failure not in UNSPECIFIC
        self.consequence = (not specific, exit_code == -signal.SIGTERM, error is not None)


class Followers:
    """The other ranks, as seen by rank 0. The agent writes a file when a rank fails."""

    def __init__(self, directory: Path, count: int) -> None:
        self._directory, self._count = directory, count
        self._leaving = threading.Lock()
        self._left = threading.Event()

    def watch(self, abandon: Callable[[FollowerLost], None]) -> None:
        """Call `abandon` from a thread if a follower is lost: rank 0 may hang in an exchange."""
        if self._count > 1:
            threading.Thread(target=self._watch, args=(abandon,), daemon=True).start()

    def lost(self) -> FollowerLost | None:
        """Return the follower that failed first, or None."""
        losses = [
            FollowerLost(rank, int(path.read_text()), _read_error(self._directory, rank))
            for rank in range(1, self._count)
            if (path := exit_path(self._directory, rank)).exists()
        ]
        return min(losses, key=lambda loss: loss.consequence, default=None)

    def cause_of(self, error: Exception, failure: FailureClass) -> FollowerLost | None:
        """Return the lost follower that caused an unspecific error in rank 0, or None."""
        if failure not in UNSPECIFIC or self._count == 1:
            return None
        for _ in range(round(SETTLE_SECONDS / WATCH_SECONDS)):
            if (loss := self.lost()) is not None:
                loss.__cause__ = error
                return loss
            time.sleep(WATCH_SECONDS)
        return None

    def leave(self) -> None:
        """Stop watching after the last exchange, or hang if the watch ends this process."""
        self._leaving.acquire()
        self._left.set()

    def _watch(self, abandon: Callable[[FollowerLost], None]) -> None:
        while (loss := self.lost()) is None:
            if self._left.wait(WATCH_SECONDS):
                return
        if not self._left.wait(SETTLE_SECONDS) and self._leaving.acquire(blocking=False):
            abandon(loss)


class SilentReporter(ReporterPort):
    """A reporter for followers. It reports nothing, because rank 0 reports for all ranks."""

    phase = Phase.IMAGE_PULL

    def enter(self, phase: Phase) -> None:
        self.phase = phase


def follow(spec_path: Path, settings: Settings) -> int:
    """Run a segment as one of its followers. Return the exit code.

    The lease of a follower never ends, because rank 0 decides. SIGTERM stays blocked: a cluster
    that stops a pod sends it to all processes, and rank 0 needs the others to save. They are killed
    when rank 0 has ended.
    """
    spec = read(SegmentSpec, spec_path.read_bytes())
    lease = Lease(SegmentClock(), float("inf"), float("inf"))
    reporter = SilentReporter()
    try:
        context = Context.join(spec, spec_path.parent, settings, reporter, lease)
        from services.trainer import segment
        from services.trainer.checkpoint_writer import Checkpoints

        segment.run(context, Checkpoints(context))
    except Exception as error:  # noqa: BLE001  # rank 0 must learn of any error
        failed = RankError(
            message=traceback.format_exc(),
            timestamp=int(time.time()),
            failure=classify(error, reporter.phase),
            shortage=shortage_of(error),
        )
        # The second file is for rank 0 on another node.
        for path in (Path(os.environ[ERROR_FILE]), shared_error_path(spec_path.parent)):
            path.write_text(failed.model_dump_json())
        return 1
    return 0


def error_path(rank: int) -> Path:
    """Return the path of a rank's error file, next to that of this process."""
    own = Path(os.environ[ERROR_FILE])
    return own.parent.with_name(str(rank)) / own.name


def shared_error_path(directory: Path, rank: int | None = None) -> Path:
    """Return the path of a rank's error file in the pod's directory; by default, of this rank."""
    number = os.environ.get("RANK", "0") if rank is None else rank
    return directory / f"rank-{number}.error.json"


def _class_of(exit_code: int) -> FailureClass:
    """Return the failure class of an exit without a report. SIGKILL is the machine's fault."""
    killed = exit_code == -signal.SIGKILL
    return FailureClass.NODE_LOST if killed else FailureClass.TRAINER_CRASHED


def _read_error(directory: Path, rank: int) -> RankError | None:
    for path in (error_path(rank), shared_error_path(directory, rank)):
        with suppress(FileNotFoundError, ValueError):  # killed before or while it wrote the file
            return read(RankError, path.read_bytes())
    return None


def describe_exit(rank: int, exit_code: int) -> str:
    """Return a phrase that says how a rank ended. A negative code is a signal number."""
    how = f"was killed by signal {-exit_code}" if exit_code < 0 else f"exited with {exit_code}"
    return f"rank {rank} {how}"


def record_exit(directory: Path, rank: int, code: int) -> None:
    """Record for rank 0 that another rank failed. A negative code is a signal number."""
    path = exit_path(directory, rank)
    partial = path.with_suffix(".partial")
    partial.write_text(str(code))
    partial.rename(path)


def exit_path(directory: Path, rank: int) -> Path:
    return directory / f"rank-{rank}.exit"


def die_with(pid: int) -> None:
    """Have the kernel kill this process when its parent ends. Source: prctl(2)."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != pid:
        sys.exit("The launcher ended before its rank started.")
