"""Simulated trainers, which only use time, and their launcher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from infrastructure.training.reports import Report, SegmentSpec
from services.scheduler.launchers.launcher import Pod, PodName


@dataclass
class SimulatedTrainer:
    """One segment on its GPUs, in seconds of segment time. It stops when its lease ends."""

    account_id: UUID
    job_id: UUID
    segment: int
    paid: int
    bound_at: datetime
    length: int = 10**9
    """Time after which its work is done."""

    age: int = 0  # since its GPUs were bound
    ran: int = 0
    grace: int = 0
    shown: int = 0  # longest time that billing received
    saved: int = 0  # time of its last checkpoint
    error: int = 0  # error of its reports
    is_deaf: bool = False  # receives no extensions
    is_stopping: bool = False  # asked to save and exit
    is_out_of_lease: bool = False  # used all its known paid time, and is exiting
    overruns: bool = False  # its last step exceeds its grace, so it is killed without saving
    _report_was_ahead: bool = False
    _report_was_behind: bool = False
    _clock_was_ahead: bool = False
    _clock_was_behind: bool = False

    @property
    def is_done(self) -> bool:
        return self.ran >= self.length

    @property
    def reported(self) -> int:
        """Time in its next report."""
        return max(0, self.ran + self.error)

    def work(self, seconds: int) -> None:
        """Use GPU time, up to what is paid and needed."""
        self.age += seconds
        self.ran = min(self.ran + seconds, self.paid, self.length)
        self.is_out_of_lease = self.ran >= self.paid and not self.is_done

    def hear(self, paid_seconds: int) -> None:
        if not self.is_deaf and not self.is_out_of_lease:
            self.paid = max(self.paid, paid_seconds)

    def report(self) -> None:
        self.shown = max(self.shown, self.reported)
        self._report_was_ahead |= self.error > 0
        self._report_was_behind |= self.error < 0

    def says(self, n: int, sent_at: datetime, **said: Any) -> Report:
        """A report with further fields."""
        return Report(
            account_id=self.account_id,
            job_id=self.job_id,
            segment=self.segment,
            n=n,
            sent_at=sent_at,
            elapsed_seconds=self.reported + self.grace,
            grace_seconds=self.grace,
            total_steps=10**6,
            **said,
        )

    def save(self) -> None:
        self.saved = self.reported

    def see_clock(self, clock_seconds: int) -> None:
        """Record its age by a clock."""
        self._clock_was_ahead |= clock_seconds > self.age
        self._clock_was_behind |= clock_seconds < self.age

    @property
    def has_good_clocks(self) -> bool:
        """True if neither clock was ever wrong about it."""
        return not (
            self.error
            or self._report_was_ahead
            or self._report_was_behind
            or self._clock_was_ahead
            or self._clock_was_behind
        )

    @property
    def has_two_wrong_clocks(self) -> bool:
        """True if both clocks were ahead, which cannot be detected."""
        return (self._report_was_ahead or self.error > 0) and self._clock_was_ahead


@dataclass(frozen=True)
class Ended:
    """Facts of a terminated trainer whose meter is still open."""

    trainer: SimulatedTrainer
    true_seconds: int
    clock: int  # age by the clock that timed its end
    reported_seconds: int  # without grace
    kept: int  # time in a checkpoint, or all if nothing was lost


Trainers = dict[tuple[UUID, int], SimulatedTrainer]


class SimulatedLauncher:
    """The part of a launcher that the scheduler's event handlers use."""

    host = None

    def __init__(self, now: Callable[[], datetime], trainers: Trainers) -> None:
        self._now = now
        self._trainers = trainers

    def poll(self, name: PodName) -> Pod | None:
        """The pod, if it was launched."""
        trainer = self._trainers.get((name.job_id, name.segment))
        return None if trainer is None else Pod(name, trainer.bound_at, alive=True)

    def log(self, name: PodName, max_bytes: int) -> bytes:
        del name, max_bytes
        return b""

    def launch(self, spec: SegmentSpec) -> Pod:
        """Bind the GPUs at once."""
        key = (spec.job_id, spec.segment)
        bound_at = self._now()
        self._trainers[key] = SimulatedTrainer(
            spec.account_id, spec.job_id, spec.segment, spec.paid_seconds, bound_at
        )
        return Pod(PodName(*key), bound_at, alive=True)


class SimulatedControl:
    """The part of the control channel that the scheduler's event handlers use."""

    def __init__(self, trainers: Trainers) -> None:
        self._trainers = trainers

    def pay(self, job_id: UUID, segment: int, paid_seconds: int, jwt: str = "") -> None:
        """Pass an extension on, without credentials."""
        del jwt
        if trainer := self._trainers.get((job_id, segment)):
            trainer.hear(paid_seconds)

    def answer(self, job_id: UUID, segment: int) -> None:
        """Ignore the acknowledgement: the final report was sent once."""

    def forget(self, job_id: UUID, segment: int) -> None:
        """Keep everything: no message is remembered here."""

    def stop(self, job_id: UUID, segment: int) -> None:
        if trainer := self._trainers.get((job_id, segment)):
            trainer.is_stopping = True
