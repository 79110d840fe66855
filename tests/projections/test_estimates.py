"""Estimates beside what jobs took, and what the next estimate learns from them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from psycopg_pool import ConnectionPool

from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from domain.estimating.estimate import Calibration, Estimate, PhaseEstimate, Precision
from domain.jobs import events
from domain.jobs.job import Job
from domain.training.phases import Phase
from infrastructure.store import Connection
from projections import ESTIMATES
from projections.estimates import CALIBRATION_JOBS, calibration, report_rows
from tests.builders.commands import NOW
from tests.builders.examples import ACCOUNT_ID, PLAN
from tests.projections.conftest import Fold

Learned = Callable[..., Calibration]

MODEL_SECONDS = {
    Phase.IMAGE_PULL: 5.0,
    Phase.MODEL_LOAD: 4.0,
    Phase.DATASET_PREP: 0.0,
    Phase.TRAINING: 100.0,
    Phase.EVALUATION: 10.0,
    Phase.REGISTER: 1.0,
}
ESTIMATE = Estimate(
    rate_micros_per_hour=PLAN.rate_micros_per_hour,
    tokens=30_000,
    total_steps=30,
    calibrated_from=0,
    phases=tuple(
        PhaseEstimate(phase=phase, model_seconds=s, low_seconds=s, high_seconds=1.3 * s)
        for phase, s in MODEL_SECONDS.items()
    ),
)
"""120 to 156 s, and $0.12 to $0.156."""


class Platform:
    """Jobs that are approved, and scored one minute after another."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._minutes = 0

    def approve(self, estimate: Estimate | None = ESTIMATE, **plan: object) -> UUID:
        with self._minute("approve"):
            job = Job.approve(uuid4(), ACCOUNT_ID, PLAN.model_copy(update=plan), estimate)
            self._log.commit(job)
        return job.id

    def score(
        self,
        job_id: UUID,
        factor: float,
        *,
        segments: int = 1,
        gpu_count: int | None = None,
        without: Phase | None = None,
    ) -> None:
        """The job took `factor` times what the constants say, in every phase."""
        spent = {phase: factor * s for phase, s in MODEL_SECONDS.items() if phase is not without}
        with self._minute("score"):
            job = self._log.load(Job, job_id)
            job.trigger_event(
                events.EstimateScored,
                low_seconds=ESTIMATE.low_seconds,
                high_seconds=ESTIMATE.high_seconds,
                low_micros=ESTIMATE.low_micros,
                high_micros=ESTIMATE.high_micros,
                actual_seconds=round(120 * factor),
                actual_micros=round(120_000 * factor),
                phase_seconds=spent,
                segments=segments,
                precision=job.plan.precision,
                base_model=job.plan.base_model,
                gpu_type=job.plan.gpu_type,
                gpu_count=gpu_count or job.gpu_count,
            )
            self._log.commit(job)

    def _minute(self, what: str) -> AbstractContextManager[Cause]:
        self._minutes += 1
        now = NOW + timedelta(minutes=self._minutes)
        return because(Cause("service:test", f"{what} {self._minutes}", now))


@pytest.fixture
def platform(log: EventLog) -> Platform:
    return Platform(log)


@pytest.fixture
def learned(pool: ConnectionPool[Connection], fold: Fold) -> Learned:
    def of(
        base: str = "tiny", gpu: str = "cpu", precision: str = "bf16", count: int = 1
    ) -> Calibration:
        fold(ESTIMATES)
        with pool.connection() as connection:
            return calibration(connection, base, gpu, Precision(precision), count)

    return of


def test_a_row_has_the_frozen_range_and_then_what_the_job_took(
    platform: Platform, pool: ConnectionPool[Connection], fold: Fold
) -> None:
    first, second = platform.approve(), platform.approve()
    platform.approve(None)  # before there were estimates
    platform.score(second, 1.2, segments=2)
    fold(ESTIMATES)
    with pool.connection() as connection:
        rows = report_rows(connection)
    assert [row["job_id"] for row in rows] == [first, second]
    assert [row["actual_micros"] for row in rows] == [None, 144_000]
    row = rows[1]
    assert (row["low_seconds"], row["high_seconds"]) == (120, 156)
    assert (row["low_micros"], row["high_micros"]) == (120_000, 156_000)
    assert (row["tokens"], row["total_steps"], row["precision"]) == (30_000, 30, "bf16")
    assert (row["segments"], row["actual_seconds"]) == (2, 144)
    assert row["phase_seconds"][Phase.TRAINING] == pytest.approx(120.0)


def test_nothing_is_learned_from_nothing(platform: Platform, learned: Learned) -> None:
    platform.approve()
    assert learned() == Calibration(factors={}, jobs=0)


def test_a_factor_is_the_median_and_a_phase_without_a_model_has_none(
    platform: Platform,
    learned: Learned,
) -> None:
    for factor in (0.9, 5.0, 1.1):
        platform.score(platform.approve(), factor)
    found = learned()
    assert found.jobs == 3
    assert set(found.factors) == set(Phase) - {Phase.DATASET_PREP}
    assert all(each == pytest.approx(1.1) for each in found.factors.values())


def test_only_the_last_jobs_count(platform: Platform, learned: Learned) -> None:
    for _ in range(CALIBRATION_JOBS):
        platform.score(platform.approve(), 3.0)
    assert learned().factors[Phase.TRAINING] == pytest.approx(3.0)
    for _ in range(CALIBRATION_JOBS):
        platform.score(platform.approve(), 1.5)
    found = learned()
    assert found.jobs == CALIBRATION_JOBS
    assert found.factors[Phase.TRAINING] == pytest.approx(1.5)


def test_jobs_of_another_kind_and_of_several_segments_teach_nothing(
    platform: Platform,
    learned: Learned,
) -> None:
    platform.score(platform.approve(base_model="other"), 2.0)
    platform.score(platform.approve(gpu_type="l4"), 3.0)
    platform.score(platform.approve(precision=Precision.NF4), 4.0)
    platform.score(platform.approve(gpu_count=2), 5.0)
    platform.score(platform.approve(), 6.0, segments=2)
    platform.score(platform.approve(), 7.0, gpu_count=2)
    assert learned().jobs == 0
    assert learned(base="other").factors[Phase.TRAINING] == pytest.approx(2.0)
    assert learned(gpu="l4").factors[Phase.TRAINING] == pytest.approx(3.0)
    assert learned(precision="nf4").factors[Phase.TRAINING] == pytest.approx(4.0)
    assert learned(count=2).factors[Phase.TRAINING] == pytest.approx(5.0)


def test_an_absurd_measurement_is_bounded_and_a_missing_phase_left_out(
    platform: Platform,
    learned: Learned,
) -> None:
    platform.score(platform.approve(), 1000.0, without=Phase.EVALUATION)
    assert learned().factors[Phase.TRAINING] == 20.0
    assert Phase.EVALUATION not in learned().factors
    for _ in range(3):
        platform.score(platform.approve(), 0.0)
    assert learned().factors[Phase.TRAINING] == 0.05
