"""The program on the GPU pod: `python -m services.trainer SPEC.json`.

With several ranks, it starts one process per rank with the arguments `SPEC.json POD_PID`. With the
arguments `--nodes COUNT SPEC.json`, the ranks are on several nodes, each of which runs the program.
With the arguments `--warm DIRECTORY`, it loads the libraries and a base model, and waits for a
segment.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from domain.jobs.lifecycle import SegmentEnd
from infrastructure.bus.exchange import read
from infrastructure.settings import Settings
from infrastructure.training.reports import SegmentSpec
from infrastructure.training.warm_start import WARM_FLAG
from services.trainer.clock import SegmentClock, process_age_seconds
from services.trainer.context import Context
from services.trainer.failures import classify, shortage_of
from services.trainer.lease import Lease, SegmentStopped
from services.trainer.processes.agent import STOPS, launch
from services.trainer.processes.followers import FollowerLost, Followers, die_with, follow
from services.trainer.processes.warm import await_warm_start
from services.trainer.reporter import Reporter
from services.trainer.store_keys import StoreKeys
from services.trainer.stored_report import StoredReport

if TYPE_CHECKING:
    from services.trainer.checkpoint_writer import Checkpoints
    from services.trainer.processes.warm_base import WarmBase

NODES_FLAG = "--nodes"

REPORT_SECONDS = 3.0
"""Seconds of a grace period that are reserved for the final report and the exit."""


def main(
    spec_path: Path,
    settings: Settings,
    pod_pid: int | None = None,
    *,
    nodes: int = 1,
    age_seconds: float | None = None,
    warm_base: WarmBase | None = None,
) -> int:
    """Run the segment of a spec file, in the directory of the file. Return the exit code.

    The exit code is 0 if the segment completed, was stopped or ran out of paid time, and 1 if it
    failed. The watchdog of the lease uses its own codes. `pod_pid` is the process that started this
    one, if this is rank 0 of several. `nodes` is the number of nodes that run this program for the
    segment. The time of the segment started `age_seconds` ago, or at the
    start of the pod's process if that is None.
    """
    spec = read(SegmentSpec, spec_path.read_bytes())
    url = settings.trainer_nats_url or settings.nats_url
    if pod_pid is None and spec.gpu_count > 1:
        peer = None if url is None else urlsplit(url).hostname
        grace_seconds = spec.grace_seconds / spec.clock_speed
        return launch(spec_path, spec.gpu_count, grace_seconds, nodes, peer)
    age = process_age_seconds(pod_pid) if age_seconds is None else age_seconds
    clock = SegmentClock(age, spec.clock_speed)
    lease = Lease(clock, spec.paid_seconds, spec.grace_seconds, spec.stall_seconds)
    _handle_stops(lease, STOPS if pod_pid is None else (signal.SIGINT,))
    lease.watch()
    if url is None:
        raise SystemExit(
            "The NATS server is unknown. Set ECOLINK_TRAINER_NATS_URL or ECOLINK_NATS_URL."
        )
    directory = spec_path.parent
    followers = Followers(directory, spec.gpu_count)
    keys = StoreKeys(spec, directory)
    stored = StoredReport(settings.artifacts, spec, keys) if settings.store_reports else None
    with Reporter(spec, lease, url, directory, stored) as reporter:
        program = Program(spec, directory, reporter, lease, followers)
        followers.watch(program.abandon)
        outcome = program.run(settings, warm_base)
    lease.close()
    return 1 if outcome is SegmentEnd.CRASHED else 0


class Program:
    def __init__(
        self,
        spec: SegmentSpec,
        directory: Path,
        reporter: Reporter,
        lease: Lease,
        followers: Followers,
    ) -> None:
        self._spec, self._directory = spec, directory
        self._reporter, self._lease, self._followers = reporter, lease, followers
        self._checkpoints: Checkpoints | None = None

    def run(self, settings: Settings, warm_base: WarmBase | None = None) -> SegmentEnd:
        error: Exception | None = None
        try:
            self._run_segment(settings, warm_base)
            outcome = SegmentEnd.COMPLETED
        except SegmentStopped as stopped:
            self._reporter.log(f"segment stopped: {stopped.outcome.value}")
            outcome = stopped.outcome
        except Exception as raised:  # noqa: BLE001  # the report contains the failure class of any error
            outcome = SegmentEnd.CRASHED
            failure = classify(raised, self._reporter.phase)
            error = self._followers.cause_of(raised, failure) or raised
        self._followers.leave()
        self._finish(outcome, error)
        return outcome

    def abandon(self, loss: FollowerLost) -> None:
        """End a hung process. A checkpoint that is being stored may use the grace period."""
        try:
            if self._checkpoints is not None:
                left = min(self._lease.grace_seconds, self._lease.remaining_seconds)
                real_seconds = self._lease.clock.real_seconds(left)
                self._checkpoints.await_stored(max(0.0, real_seconds - REPORT_SECONDS))
            self._finish(SegmentEnd.CRASHED, loss)
        finally:
            os._exit(1)

    def _run_segment(self, settings: Settings, warm_base: WarmBase | None) -> None:
        context = Context.join(self._spec, self._directory, settings, self._reporter, self._lease)
        from services.trainer import segment
        from services.trainer.checkpoint_writer import Checkpoints

        self._checkpoints = Checkpoints(context)
        segment.run(context, self._checkpoints, warm_base)

    def _finish(self, outcome: SegmentEnd, error: Exception | None) -> None:
        self._lease.conclude()
        error_class = failure = None
        if error is not None:
            error_class, failure = type(error).__name__, classify(error, self._reporter.phase)
            if isinstance(error, FollowerLost):
                self._reporter.keep_for_operator(error.traceback)
            self._reporter.keep_for_operator("".join(traceback.format_exception(error)))
            self._reporter.log(f"{error_class}: {error}", "ERROR")
        if not self._reporter.finish(outcome, error_class, failure, shortage_of(error)):
            self._reporter.log("the scheduler did not acknowledge the final report", "WARNING")


def _handle_stops(lease: Lease, numbers: Sequence[signal.Signals]) -> None:
    for number in numbers:
        signal.signal(number, lambda *_: lease.request_stop())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def run(arguments: Sequence[str]) -> int:
    """Run the command line. Return the exit code."""
    match arguments:
        case [flag, directory] if flag == WARM_FLAG:
            start, base = await_warm_start(Path(directory), Settings())
            age = time.monotonic() - start.handed_at
            return main(start.spec_path, Settings(), age_seconds=age, warm_base=base)
        case [spec_path]:
            return main(Path(spec_path).resolve(), Settings())
        case [flag, nodes, spec_path] if flag == NODES_FLAG:
            return main(Path(spec_path).resolve(), Settings(), nodes=int(nodes))
        case [spec_path, pod_pid]:
            die_with(int(pod_pid))
            if os.environ["RANK"] == "0":
                return main(Path(spec_path), Settings(), int(pod_pid))
            return follow(Path(spec_path), Settings())
    raise SystemExit("usage: python -m services.trainer SPEC.json")


def end(code: int) -> NoReturn:
    """End immediately. A normal shutdown takes half a second, and its failure looks like a loss."""
    with suppress(OSError):  # the disk may be full
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    end(run(sys.argv[1:]))
