"""GPUs and trainers: a launcher with nodes that fail, and trainers that only use time."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import sqrt
from typing import Any
from uuid import UUID

from nats.errors import Error as NatsError

from domain.estimating.estimate import Estimate, PhaseEstimate
from domain.estimating.pricing import HEADROOM
from domain.jobs.failures import FailureClass
from domain.jobs.lifecycle import SegmentEnd
from domain.jobs.segments import SegmentEnding
from domain.training.checkpoint import (
    RejectionReason,
    ResumeCertificate,
    SavedCheckpoint,
)
from domain.training.evaluation import EvaluationResult
from domain.training.phases import Phase
from infrastructure.artifacts.store import MANIFEST, Manifest
from infrastructure.bus.streams import CONTROL, REPORTS
from infrastructure.training.reports import (
    Control,
    RejectedCheckpoint,
    Report,
    SegmentSpec,
    control_subject,
)
from services.scheduler.launchers.launcher import (
    GpusBusy,
    LaunchFailed,
    Pod,
    PodName,
    ReadCatalog,
)
from services.scheduler.segments import OVERRUN
from tests.builders.examples import STATE
from tests.simulation.control_plane.bus import Bus
from tests.simulation.control_plane.files import Files
from tests.simulation.control_plane.kernel import Kernel, Owner, Pause

REGION, GPU_TYPE = "local", "gpu"
NO_FILES = Manifest(files=())
FINAL_REPEAT_SECONDS = 5.0
SAVE_SECONDS = 3
EVALUATION_SECONDS = 4
MOST_FROZEN_SECONDS = 10
"""Seconds of a freeze that count as used, as in the trainer."""


@dataclass(frozen=True)
class Work:
    """The work of a job: steps, and seconds of segment time."""

    total_steps: int
    step_seconds: int = 5
    load_seconds: int = 10
    save_steps: int = 4
    slowdown: int = 1
    """Ratio of the true to the estimated seconds of a step."""

    def estimate(self, rate_micros_per_hour: int) -> Estimate:
        """Return the estimate of the whole job, which does not know the slowdown."""
        seconds = {
            Phase.MODEL_LOAD: self.load_seconds,
            Phase.TRAINING: self.total_steps * self.step_seconds,
            Phase.EVALUATION: EVALUATION_SECONDS,
        }
        return Estimate(
            rate_micros_per_hour=rate_micros_per_hour,
            tokens=0,
            total_steps=self.total_steps,
            calibrated_from=0,
            phases=tuple(
                PhaseEstimate(
                    phase=phase,
                    model_seconds=typical,
                    low_seconds=typical / sqrt(HEADROOM),
                    high_seconds=typical * sqrt(HEADROOM),
                )
                for phase, typical in seconds.items()
            ),
        )


class Exit(Exception):
    """A trainer's process exits with this code."""

    def __init__(self, code: int) -> None:
        self.code = code


@dataclass(eq=False)
class Trainer(Owner):
    """The process of one segment. It uses its GPUs from its launch to its exit.

    `age` is the time that it worked, in seconds: the truth of a bill.
    """

    cluster: Cluster = field(kw_only=True)
    spec: SegmentSpec = field(kw_only=True)
    bound_at: datetime = field(kw_only=True)
    work: Work = field(kw_only=True)

    def __post_init__(self) -> None:
        self._born = self.cluster.kernel.now
        self._freezes: list[tuple[float, float]] = []
        self.paid = self.spec.paid_seconds
        self.is_stopped = self.is_answered = False
        self.phase, self.step = Phase.MODEL_LOAD, 0
        self.began: int | None = None
        """Time when it started training."""
        self.exit_code: int | None = None
        self.is_lost = False
        self.final: Report | None = None
        self.kept: bytes | None = None
        self.n = 0
        self.beat = 0
        self.told = 0
        """Longest time in a report or a stored report: the evidence of a bill."""
        self.worked = 0
        """Seconds that it used in total, once it is over."""
        self.saved: list[SavedCheckpoint] = []
        self.rejected: list[RejectedCheckpoint] = []
        self.resumed: ResumeCertificate | None = None
        # Faults
        self.error = 0
        """Error of its clock in its reports, seconds."""
        self.report_was_ahead = self.report_was_wrong = False
        self.failure: FailureClass | None = None
        self.is_muted_until = 0.0
        self.is_deaf = False
        self.overruns = False
        self.clock_was_ahead = self.clock_was_wrong = False

    @property
    def name_of_pod(self) -> PodName:
        return PodName(self.spec.job_id, self.spec.segment)

    @property
    def age(self) -> int:
        """Seconds since the launch that count as used: at most ten of each freeze."""
        now = self.cluster.kernel.now
        lost = sum(
            max(0.0, min(now, end) - begin - MOST_FROZEN_SECONDS) for begin, end in self._freezes
        )
        return int(now - self._born - lost + 1e-6)

    @property
    def seconds_since_launch(self) -> float:
        """True seconds since the launch, with all freezes."""
        return self.cluster.kernel.now - self._born

    @property
    def is_over(self) -> bool:
        return self.final is not None or not self.lives

    @property
    def pod(self) -> Pod:
        alive = self.lives
        beat = self.beat if alive else None
        return Pod(self.name_of_pod, self.bound_at, alive, self.exit_code, beat)

    async def run(self) -> None:
        try:
            await self._live()
        except Exit as end:
            self.end(end.code)

    def end(self, code: int | None) -> None:
        """End the process, with an exit code or with its node."""
        if self.lives:
            if self.final is None:
                self.worked = min(self.age, self.paid)
            self.exit_code, self.lives = code, False
            self.is_lost = code is None
            if self.is_lost:
                self.kept = None

    def freeze(self, seconds: float) -> None:
        """Stop for some seconds, unless it is frozen already."""
        now = self.cluster.kernel.now
        if self.thaws_at <= now:
            self.thaws_at = now + seconds
            self._freezes.append((now, self.thaws_at))

    def misreport(self, seconds: int) -> None:
        """Report times that are wrong by some seconds from now on."""
        self.error = seconds
        self.report_was_ahead |= seconds > 0
        self.report_was_wrong |= seconds != 0

    async def _live(self) -> None:
        await self._pass(self.work.load_seconds)
        self._resume()
        self.began = self._shown
        self.phase = Phase.TRAINING
        while self.step < self.work.total_steps:
            await self._pass(self.work.step_seconds * self.work.slowdown)
            self.step += 1
            if self.step % self.work.save_steps == 0 or self.step == self.work.total_steps:
                self._save()
                self.report()
        self.phase = Phase.EVALUATION
        self.report()
        await self._pass(EVALUATION_SECONDS)
        self.phase = Phase.REGISTER
        ref = self.spec.adapter_prefix
        self._store(ref)
        await self._finish(
            SegmentEnd.COMPLETED,
            evaluation=EvaluationResult(
                loss_before=2.0, loss_after=1.0, examples=1, label_tokens=1
            ),
            adapter_ref=ref,
            adapter_manifest_sha256=NO_FILES.sha256,
        )

    def _resume(self) -> None:
        for checkpoint in self.spec.resume_from:
            if self.cluster.files.is_intact(checkpoint.ref):
                self.step = checkpoint.step
                self.resumed = ResumeCertificate(
                    step=checkpoint.step,
                    ref=checkpoint.ref,
                    state=STATE,
                    unchecked=(),
                    ranks=1,
                    differences=(),
                )
                return
            missing = RejectedCheckpoint(ref=checkpoint.ref, reason=RejectionReason.MISSING)
            self.rejected.append(missing)

    async def _pass(self, seconds: int) -> None:
        """Work for some seconds, with heartbeats. Obey stop requests and the end of the lease."""
        end = self.age + seconds
        while True:
            self._hear()
            if self.failure is not None:
                await self._finish(SegmentEnd.CRASHED, failure=self.failure)
            if self.is_stopped:
                self._save()
                await self._finish(SegmentEnd.STOPPED)
            if self.age >= self.paid:
                await self._end_lease()
            if self.age >= end:
                return
            wait = min(end - self.age, self.paid - self.age, self.spec.heartbeat_seconds)
            await Pause(wait)
            self.beat += 1
            if self.age < min(end, self.paid):
                self.report()

    async def _end_lease(self) -> None:
        """Save within the grace period, which costs nothing, and exit."""
        self.worked = self.paid
        if self.overruns:
            await Pause(self.spec.grace_seconds)
            raise Exit(OVERRUN)
        await Pause(SAVE_SECONDS)
        self._save()
        await self._finish(SegmentEnd.LEASE_ENDED)

    def _hear(self) -> None:
        """Read the last message of the scheduler."""
        if self.is_deaf:
            return
        try:
            stream = self.cluster.bus.require(CONTROL)
        except NatsError:
            return
        subject = control_subject(self.spec.job_id, self.spec.segment)
        if (message := stream.last_of.get(subject)) is not None:
            control = Control.model_validate(message.content)
            self.paid = max(self.paid, control.paid_seconds)
            self.is_stopped |= control.stop
            self.is_answered |= control.answered

    def _store(self, ref: str) -> None:
        try:
            self.cluster.files.require(space=True)
        except OSError:
            raise Exit(1) from None
        self.cluster.files.content[f"{ref}/{MANIFEST}"] = NO_FILES.content

    def _save(self) -> None:
        """Store a checkpoint of the current step, unless the last one has it."""
        if self.phase is not Phase.TRAINING or self.step == 0:
            return
        if self.saved and self.saved[-1].step == self.step:
            return
        if self.resumed is not None and self.resumed.step == self.step:
            return
        ref = f"{self.spec.checkpoint_prefix}/step-{self.step}"
        self._store(ref)
        self.saved.append(
            SavedCheckpoint(
                segment=self.spec.segment,
                step=self.step,
                train_loss=1.0,
                elapsed_seconds=min(self._shown, self.paid),
                ref=ref,
                manifest_sha256=NO_FILES.sha256,
                total_bytes=1,
            )
        )
        self._keep(self._says())

    @property
    def _shown(self) -> int:
        return max(0, self.age + self.error)

    def _phase_seconds(self, elapsed: int) -> dict[Phase, float]:
        if self.began is None:
            return {Phase.MODEL_LOAD: elapsed}
        return {Phase.MODEL_LOAD: self.began, Phase.TRAINING: max(0, elapsed - self.began)}

    def _says(self, **said: Any) -> Report:
        self.n += 1
        elapsed = self._shown
        ending: SegmentEnding | None = said.get("ending")
        if ending is not None:
            elapsed = ending.elapsed_seconds
        self.told = max(self.told, elapsed)
        return Report(
            account_id=self.spec.account_id,
            job_id=self.spec.job_id,
            segment=self.spec.segment,
            n=self.n,
            sent_at=self.cluster.now(),
            elapsed_seconds=elapsed,
            grace_seconds=max(0, elapsed - self.paid),
            phase=self.phase,
            phase_seconds=self._phase_seconds(elapsed),
            step=self.step,
            total_steps=self.work.total_steps,
            rejected=tuple(self.rejected),
            resumed=self.resumed,
            checkpoint=self.saved[-1] if self.saved else None,
            earlier=tuple(self.saved[-2:-1]),
            **said,
        )

    def _keep(self, report: Report) -> None:
        """Store a report on the node, for a scheduler that cannot read the bus."""
        self.kept = report.model_dump_json().encode()

    def report(self) -> None:
        """Send a heartbeat, which can get lost."""
        self._send(self._says())

    def _send(self, report: Report) -> None:
        if self.cluster.kernel.now < self.is_muted_until:
            return
        with suppress(NatsError):
            self.cluster.bus.send(REPORTS, report.subject, report)

    async def _finish(
        self, reason: SegmentEnd, failure: FailureClass | None = None, **said: Any
    ) -> None:
        """Repeat the final report until it is answered, and exit."""
        elapsed = self._shown
        grace = max(0, elapsed - self.paid)
        self.worked = min(self.age, self.paid)
        ending = SegmentEnding(
            reason=reason,
            elapsed_seconds=elapsed,
            grace_seconds=grace,
            failure=failure,
            phase_seconds=self._phase_seconds(elapsed),
        )
        self.final = self._says(ending=ending, **said)
        self._keep(self.final)
        while not self.is_answered:
            self._send(self.final)
            self.beat += 1
            await Pause(FINAL_REPEAT_SECONDS)
            self._hear()
        raise Exit(0)


class Cluster:
    """The launcher, with `built` GPUs in one region, of which the operator offers some."""

    host = None

    def __init__(self, kernel: Kernel, bus: Bus, files: Files, now: Callable[[], datetime]) -> None:
        self.kernel, self.bus, self.files, self.now = kernel, bus, files, now
        self.built = 0
        self.read_catalog: ReadCatalog | None = None
        self.work: dict[UUID, Work] = {}
        self.trainers: dict[PodName, Trainer] = {}
        self.all: dict[PodName, Trainer] = {}
        """All trainers, also those whose pods were removed."""
        self.fails = 0
        """Number of the next launches that fail."""
        self.problems: list[str] = []
        self.on_launch: Callable[[Trainer], None] = lambda trainer: None

    def read_by(self, read_catalog: ReadCatalog) -> Cluster:
        """Return this launcher for a scheduler that reads the catalog in this way."""
        self.read_catalog = read_catalog
        return self

    def running(self) -> list[Trainer]:
        """Return the trainers that have not ended, in launch order."""
        return [each for each in self.trainers.values() if not each.is_over]

    def capacity(self, known: Mapping[tuple[str, str], int]) -> Mapping[tuple[str, str], int]:
        assert self.read_catalog is not None
        offered = self.read_catalog().regions[REGION].capacity
        return {(REGION, GPU_TYPE): offered.get(GPU_TYPE, 0)}

    def machine(self) -> None:
        return None

    async def measure_machine(self) -> None:
        """Measure nothing: there is no CPU-backed pool."""

    def prepare(self) -> None:
        """Prepare nothing."""

    def close(self) -> None:
        """Keep the trainers running."""

    def launch(self, spec: SegmentSpec) -> Pod:
        name = PodName(spec.job_id, spec.segment)
        if (known := self.trainers.get(name)) is not None:
            return known.pod
        if name in self.all:
            self.problems.append(f"{name} was launched again after its pod was removed")
        if self.fails > 0:
            self.fails -= 1
            raise LaunchFailed("no node")
        alive = [each for each in self.trainers.values() if each.lives]
        if sum(each.spec.gpu_count for each in alive) + spec.gpu_count > self.built:
            raise GpusBusy("trainers that are about to exit hold the GPUs")
        work = self.work[spec.job_id]
        trainer = Trainer(
            f"trainer {name}", cluster=self, spec=spec, bound_at=self.now(), work=work
        )
        self.trainers[name] = self.all[name] = trainer
        self.on_launch(trainer)
        self.kernel.spawn(trainer, trainer.run())
        return trainer.pod

    def poll(self, name: PodName) -> Pod | None:
        trainer = self.trainers.get(name)
        return None if trainer is None else trainer.pod

    def stop(self, name: PodName) -> None:
        if (trainer := self.trainers.get(name)) is not None:
            trainer.is_stopped = True

    def kill(self, name: PodName) -> None:
        if (trainer := self.trainers.get(name)) is not None:
            trainer.end(-signal.SIGKILL)

    def pods(self) -> list[PodName]:
        return list(self.trainers)

    def log(self, name: PodName, max_bytes: int) -> bytes:
        del name, max_bytes
        return b""

    def kept_report(self, name: PodName) -> bytes | None:
        trainer = self.trainers.get(name)
        return None if trainer is None else trainer.kept

    def remove(self, name: PodName) -> None:
        trainer = self.trainers.pop(name, None)
        if trainer is not None and trainer.lives:
            self.problems.append(f"{name} was removed while it runs")

    def age_by_clock(self, trainer: Trainer) -> timedelta:
        return self.now() - trainer.bound_at
