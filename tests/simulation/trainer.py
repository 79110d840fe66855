"""Trainers that only use time, and the place that runs them: what the scheduler sees of a pod."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from infrastructure.reports import Report, SegmentSpec
from services.scheduler.launchers.launcher import Pod, PodName


@dataclass
class SimulatedTrainer:
    """One segment on its GPUs, seconds of segment time; it stops by itself when its lease ends."""

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
    shown: int = 0  # the longest time of its reports that reached billing
    saved: int = 0  # segment time of its last checkpoint
    error: int = 0  # what its reports are wrong by
    is_deaf: bool = False  # extensions do not reach it
    is_stopping: bool = False  # it was asked to save and exit
    is_out_of_lease: bool = False  # it used all that it knew to be paid, and is on its way out
    overruns: bool = False  # its last step outlasts its grace, so that it is ended without saving
    _report_was_ahead: bool = False
    _report_was_behind: bool = False
    _clock_was_ahead: bool = False
    _clock_was_behind: bool = False

    @property
    def is_done(self) -> bool:
        """Whether its work is done."""
        return self.ran >= self.length

    @property
    def reported(self) -> int:
        """The time that its next report would say."""
        return max(0, self.ran + self.error)

    def work(self, seconds: int) -> None:
        """Use GPU time, no more than is paid and needed."""
        self.age += seconds
        self.ran = min(self.ran + seconds, self.paid, self.length)
        self.is_out_of_lease = self.ran >= self.paid and not self.is_done

    def hear(self, paid_seconds: int) -> None:
        """The lease was extended."""
        if not self.is_deaf and not self.is_out_of_lease:
            self.paid = max(self.paid, paid_seconds)

    def report(self) -> None:
        """A heartbeat reaches billing."""
        self.shown = max(self.shown, self.reported)
        self._report_was_ahead |= self.error > 0
        self._report_was_behind |= self.error < 0

    def says(self, n: int, sent_at: datetime, **said: Any) -> Report:
        """Its report, with what else it has to say."""
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
        """Write a checkpoint."""
        self.saved = self.reported

    def see_clock(self, clock_seconds: int) -> None:
        """Note what a clock said of its age."""
        self._clock_was_ahead |= clock_seconds > self.age
        self._clock_was_behind |= clock_seconds < self.age

    @property
    def has_good_clocks(self) -> bool:
        """Whether neither its own clock nor the platform's was ever wrong about it."""
        return not (
            self.error
            or self._report_was_ahead
            or self._report_was_behind
            or self._clock_was_ahead
            or self._clock_was_behind
        )

    @property
    def has_two_wrong_clocks(self) -> bool:
        """Whether both clocks were ahead, against which nothing helps."""
        return (self._report_was_ahead or self.error > 0) and self._clock_was_ahead


@dataclass(frozen=True)
class Ended:
    """A trainer that is gone while its meter is open still: facts for the settlement to come."""

    trainer: SimulatedTrainer
    true_seconds: int
    clock: int  # the segment's age by the clock that timed its end
    last_word: int  # without grace
    kept: int  # what of it is in a checkpoint, or all if the platform lost nothing


Trainers = dict[tuple[UUID, int], SimulatedTrainer]


class SimulatedLauncher:
    """As much of a launcher as the scheduler's reactions use."""

    host = None

    def __init__(self, now: Callable[[], datetime], trainers: Trainers) -> None:
        self._now = now
        self._trainers = trainers

    def poll(self, name: PodName) -> Pod | None:
        """The pod, if it was launched."""
        trainer = self._trainers.get((name.job_id, name.segment))
        return None if trainer is None else Pod(name, trainer.bound_at, alive=True)

    def log(self, name: PodName, max_bytes: int) -> bytes:
        """Simulated trainers write none."""
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
    """As much of the control channel as the scheduler's reactions use."""

    def __init__(self, trainers: Trainers) -> None:
        self._trainers = trainers

    def pay(self, job_id: UUID, segment: int, paid_seconds: int, jwt: str = "") -> None:
        """Pass an extension on; simulated trainers need no credentials."""
        del jwt
        if trainer := self._trainers.get((job_id, segment)):
            trainer.hear(paid_seconds)

    def answer(self, job_id: UUID, segment: int) -> None:
        """A last word was heard; it was said once."""

    def stop(self, job_id: UUID, segment: int) -> None:
        """Ask a trainer to save and exit."""
        if trainer := self._trainers.get((job_id, segment)):
            trainer.is_stopping = True
