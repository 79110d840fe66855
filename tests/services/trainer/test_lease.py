"""Paid time, stops, and the clock behind them."""

from __future__ import annotations

import math
import re
import signal
import subprocess
import sys
import time
from uuid import uuid4

import pytest

from domain.jobs.lifecycle import SegmentEnd
from domain.training.phases import Phase
from infrastructure.training.reports import Control
from services.trainer.clock import PhaseTimes, SegmentClock, process_age_seconds
from services.trainer.lease import OVERRUN_EXIT_CODE, STALL_EXIT_CODE, Lease, SegmentStopped


class StoppedClock(SegmentClock):
    """A clock that a test sets."""

    now = 0.0

    def elapsed(self) -> float:
        return self.now


@pytest.fixture
def lease() -> Lease:
    return Lease(StoppedClock(), 60, 30)


def receive(lease: Lease, **fields) -> None:
    lease.apply(Control(job_id=uuid4(), segment=1, **fields))


def pass_time(lease: Lease, until: float) -> None:
    lease.clock.now = until  # type: ignore[attr-defined]


def test_paid_time_ends_the_segment_unless_it_grew_before(lease: Lease) -> None:
    pass_time(lease, 59.9)
    lease.check()
    receive(lease, paid_seconds=120)
    pass_time(lease, 119.9)
    lease.check()
    pass_time(lease, 120.0)
    with pytest.raises(SegmentStopped) as stopped:
        lease.check()
    assert stopped.value.outcome is SegmentEnd.LEASE_ENDED


def test_paid_time_never_shrinks_and_a_stop_stays(lease: Lease) -> None:
    receive(lease, paid_seconds=120, stop=True)
    receive(lease, paid_seconds=30)
    assert (lease.paid_seconds, lease.outcome) == (120, SegmentEnd.STOPPED)


def test_grace_counts_from_the_end_of_paid_time(lease: Lease) -> None:
    assert [lease.grace_used(elapsed) for elapsed in (59.0, 62.5)] == [0.0, 2.5]
    for elapsed, remaining in ((70.0, 20.0), (91.0, 0.0)):
        pass_time(lease, elapsed)
        assert lease.remaining_seconds == remaining


def test_the_clock_counts_from_the_start_of_the_process() -> None:
    age = process_age_seconds()
    assert age > 0.1
    assert SegmentClock().elapsed() >= age - 0.001
    assert SegmentClock(age_seconds=5.0).elapsed() >= 5.0


def test_a_fast_clock_multiplies_all_time() -> None:
    started, clock = time.monotonic(), SegmentClock(age_seconds=2.0, speed=60.0)
    created = time.monotonic()
    time.sleep(0.05)
    least = 60 * (2.0 + time.monotonic() - created)
    elapsed = clock.elapsed()
    assert least - 0.01 <= elapsed <= 60 * (2.0 + time.monotonic() - started) + 0.01
    assert clock.real_seconds(30.0) == 0.5


def test_every_second_belongs_to_one_phase() -> None:
    times = PhaseTimes()
    assert times.until(1.5) == {Phase.IMAGE_PULL: 1.5}
    times.enter(Phase.MODEL_LOAD, 2.001)
    times.enter(Phase.TRAINING, 3.004)
    assert times.present is Phase.TRAINING
    seconds = times.until(10.01)
    assert seconds == {Phase.IMAGE_PULL: 2.001, Phase.MODEL_LOAD: 1.003, Phase.TRAINING: 7.006}
    times.enter(Phase.MODEL_LOAD, 11.0)  # a phase that is entered again continues
    assert times.until(12.0)[Phase.MODEL_LOAD] == 2.003
    assert sum(times.until(12.0).values()) == pytest.approx(12.0)


IMPORTS = """
import time
from services.trainer import clock
from services.trainer.clock import SegmentClock
from services.trainer.lease import Lease
"""


def hang(work: str = "", *, paid: float = 1e9, stall: float = 1e9, speed: float = 1.0):
    """Run a program that hangs after some work; returns (exit code, stdout, seconds)."""
    lease = f"lease = Lease(SegmentClock(0.0, {speed}), {paid}, 0, {stall})"
    program = f"{IMPORTS}{lease}\nlease.watch()\n{work}\ntime.sleep(100)"
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    return ended.returncode, ended.stdout, time.monotonic() - started


@pytest.mark.full
def test_the_watchdog_ends_a_process_that_makes_no_progress() -> None:
    work = "for _ in range(90): time.sleep(0.02); lease.check()"
    code, out, seconds = hang(work, stall=1.5)
    assert code == STALL_EXIT_CODE
    assert re.match(r"stalled idle=\d", out)
    assert seconds > 90 * 0.02 + 1.5  # the work did not count as a stall


def test_the_watchdog_uses_the_seconds_of_a_fast_clock() -> None:
    code, out, seconds = hang(paid=3600, speed=7200)
    assert code == OVERRUN_EXIT_CODE
    elapsed = re.match(r"overrun elapsed=([\d.]+)", out)
    assert elapsed is not None
    assert 3600 <= float(elapsed[1]) <= 7200 * seconds


@pytest.mark.full
def test_waiting_for_an_answer_is_not_a_stall() -> None:
    lease = Lease(SegmentClock(0.0), math.inf, 0, stall_seconds=0.01)
    lease.conclude()
    lease.watch()  # would end this process
    time.sleep(0.6)
    lease.close()


@pytest.mark.full
def test_time_in_which_the_process_was_frozen_does_not_count() -> None:
    program = f"""{IMPORTS}
clock.MOST_PAUSE_SECONDS = 1.0
lease = Lease(SegmentClock(0.0), 1000, 0)
lease.watch()
while True:
    print(lease.clock.elapsed(), flush=True)
    time.sleep(0.01)
"""
    frozen_seconds = 4.0
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        began = time.monotonic()
        before = float(process.stdout.readline())
        process.send_signal(signal.SIGSTOP)
        time.sleep(frozen_seconds)
        process.send_signal(signal.SIGCONT)
        shown = [float(process.stdout.readline()) for _ in range(300)]
        passed = time.monotonic() - began
    finally:
        process.kill()
        process.wait()
    assert shown == sorted(shown)
    assert shown[-1] - before <= passed - frozen_seconds + 1.1
