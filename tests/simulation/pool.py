"""A simulated GPU pool: jobs arrive, wait, run and end, with the real pool and wait estimate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from statistics import mean, median, quantiles
from uuid import UUID

from domain.capacity.gpu_pool import Claim, GpuPool
from domain.capacity.queue_eta import Occupied, Queued, wait_seconds
from domain.core.aggregate import Cause, because
from domain.core.identity import PLATFORM_ACCOUNT_ID
from domain.estimating.estimate import Estimate, PhaseEstimate
from domain.estimating.pricing import HEADROOM
from domain.estimating.progress import Steps, seconds_left
from domain.training.phases import SUPERVISED_PHASES, Phase

CAPACITY, JOBS, SEED = 8, 200, 2026
LOAD = 0.95
"""Arriving GPU time over available GPU time: a busy pool, with short and long waits."""

ENDED_EARLY = 0.05
"""Share of jobs that are cancelled or fail at a random moment."""

COUNTS, COUNT_WEIGHTS = (1, 2, 4), (6, 3, 1)
STEPS = 200
OVERHEAD_SHARES = {
    Phase.IMAGE_PULL: 0.05,
    Phase.MODEL_LOAD: 0.03,
    Phase.DATASET_PREP: 0.01,
    Phase.EVALUATION: 0.05,
    Phase.REGISTER: 0.01,
}
"""Shares of a job's typical seconds. The rest is training."""

TYPICAL_SECONDS, SPREAD = 1800.0, 0.8
"""Median and log-standard deviation of the expected seconds of a job: minutes to hours."""

NOISE = 0.12
"""Log-standard deviation of a phase's true seconds around the expected ones. With it, three of four
jobs end inside a range of 30%, which is worse than the goal of the estimate."""


@dataclass
class SimulatedJob:
    """A job with its estimate and its true duration."""

    number: int
    count: int
    arrives_at: float
    estimate: Estimate
    true_seconds: dict[Phase, float]
    ends_early_at: float | None = None  # as a share of its duration
    started_at: float | None = None
    eta: float | None = None  # estimated wait at arrival, if it had to wait
    naive: float | None = None

    @property
    def claim(self) -> Claim:
        return Claim(PLATFORM_ACCOUNT_ID, UUID(int=self.number), 1, self.count)

    @property
    def duration(self) -> float:
        return sum(self.true_seconds.values()) * (self.ends_early_at or 1.0)

    @property
    def expected(self) -> float:
        return sum(each.typical_seconds for each in self.estimate.phases)

    def left_at(self, now: float) -> float:
        """Estimated remaining seconds, given phase and step."""
        assert self.started_at is not None
        elapsed = now - self.started_at
        rest = elapsed
        for phase in SUPERVISED_PHASES:
            spent = self.true_seconds[phase]
            if rest < spent:
                if phase is not Phase.TRAINING:
                    return seconds_left(self.estimate, elapsed, phase)
                step, began = math.floor(STEPS * rest / spent), elapsed - rest
                steps = Steps(step, STEPS, began, began + step * spent / STEPS)
                return seconds_left(self.estimate, elapsed, phase, steps)
            rest -= spent
        return 0.0


@dataclass
class SimulatedPool:
    """The real pool in simulated time."""

    pool: GpuPool
    now: float = 0.0
    jobs: dict[UUID, SimulatedJob] = field(default_factory=dict)

    def advance(self, until: float) -> None:
        """End and start jobs up to a moment."""
        while held := [self.jobs[each] for each, _ in self.pool.held]:
            first = min(held, key=_end)
            if _end(first) > until:
                break
            self.now = _end(first)
            self.pool.release(first.claim.job_id, 1)
            self._allocate()
        self.now = max(self.now, until) if until < math.inf else self.now

    def join(self, job: SimulatedJob) -> None:
        """Add a job. If it has to wait, estimate its wait."""
        self.jobs[job.claim.job_id] = job
        if self.pool.queue or job.count > self.pool.free:
            job.eta, job.naive = self._eta(job.count), self._naive_eta()
        self.pool.request(job.claim)
        self._allocate()

    def _allocate(self) -> None:
        while (claim := self.pool.next_fitting()) is not None:
            self.pool.allocate(claim)
            job = self.jobs[claim.job_id]
            job.started_at = self.now

    def _eta(self, count: int) -> float | None:
        running = [self.jobs[each] for each, _ in self.pool.held]
        waiting = [self.jobs[each] for each, _ in self.pool.queue]
        return wait_seconds(
            self.pool.capacity,
            [Occupied(each.count, each.left_at(self.now)) for each in running],
            [Queued(each.count, each.expected) for each in waiting],
            count,
        )

    def _naive_eta(self) -> float:
        """Expected GPU seconds of all earlier jobs, divided by the pool's GPUs."""
        before = [self.jobs[each] for each, _ in (*self.pool.held, *self.pool.queue)]
        spent = {
            each.number: self.now - (self.now if each.started_at is None else each.started_at)
            for each in before
        }
        return (
            sum(each.count * max(0.0, each.expected - spent[each.number]) for each in before)
            / self.pool.capacity
        )


def _end(job: SimulatedJob) -> float:
    assert job.started_at is not None
    return job.started_at + job.duration


@dataclass(frozen=True)
class Accuracy:
    """Relative errors of estimated waits."""

    waited: int
    median_error: float
    p90_error: float

    @classmethod
    def of(
        cls, jobs: Sequence[SimulatedJob], estimate_of: Callable[[SimulatedJob], float | None]
    ) -> Accuracy:
        """Errors of the jobs that had to wait."""
        errors = [
            abs(announced - waited) / waited
            for job in jobs
            if (announced := estimate_of(job)) is not None
            and job.started_at is not None
            and (waited := job.started_at - job.arrives_at) > 0
        ]
        return cls(len(errors), median(errors), quantiles(errors, n=10)[-1])


def simulate(seed: int = SEED, jobs: int = JOBS, noise: float = NOISE) -> list[SimulatedJob]:
    """Let jobs arrive, wait and run. Each has its estimated and its true wait."""
    random = Random(seed)
    arriving = _arrivals(random, jobs, noise)
    with because(Cause("service:bench", "wait-eta", datetime(2026, 1, 1, tzinfo=UTC))):
        pool = GpuPool.open("bench", "gpu")
        pool.change_capacity(CAPACITY)
        simulated = SimulatedPool(pool)
        for job in arriving:
            simulated.advance(job.arrives_at)
            simulated.join(job)
        simulated.advance(math.inf)
    return arriving


def _arrivals(random: Random, jobs: int, noise: float) -> list[SimulatedJob]:
    """Jobs by arrival, as a Poisson process that keeps the pool busy."""
    drawn = [_job(random, number, noise) for number in range(1, jobs + 1)]
    interval = mean(each.count * each.expected for each in drawn) / CAPACITY / LOAD
    now = 0.0
    for each in drawn:
        now += random.expovariate(1 / interval)
        each.arrives_at = now
    return drawn


def _job(random: Random, number: int, noise: float) -> SimulatedJob:
    typical = random.lognormvariate(math.log(TYPICAL_SECONDS), SPREAD)
    shares = OVERHEAD_SHARES | {Phase.TRAINING: 1 - sum(OVERHEAD_SHARES.values())}
    estimate = Estimate(
        rate_micros_per_hour=0,
        tokens=0,
        total_steps=STEPS,
        calibrated_from=0,
        phases=tuple(_phase(phase, typical * shares[phase]) for phase in SUPERVISED_PHASES),
    )
    true_seconds = {
        phase: estimate.typical_seconds(phase) * random.lognormvariate(0.0, noise)
        for phase in SUPERVISED_PHASES
    }
    return SimulatedJob(
        number=number,
        count=random.choices(COUNTS, COUNT_WEIGHTS)[0],
        arrives_at=0.0,
        estimate=estimate,
        true_seconds=true_seconds,
        ends_early_at=random.random() if random.random() < ENDED_EARLY else None,
    )


def _phase(phase: Phase, typical: float) -> PhaseEstimate:
    low = typical if phase is Phase.REGISTER else typical / math.sqrt(HEADROOM)
    high = typical if phase is Phase.REGISTER else low * HEADROOM
    return PhaseEstimate(phase=phase, model_seconds=typical, low_seconds=low, high_seconds=high)
