"""Estimates with the actual times of jobs, and the calibration based on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from domain.estimating.estimate import Calibration, Estimate, PhaseEstimate, Precision
from domain.jobs import events
from domain.jobs.job import Job
from domain.training.early_stopping import EarlyStop
from domain.training.phases import Phase
from projections import ESTIMATES
from projections.estimate_accuracy import summary
from projections.estimates import (
    CALIBRATION_JOBS,
    MAX_FACTOR,
    MIN_FACTOR,
    calibration,
    count_estimates,
    newest_rows,
    report_rows,
    rows_after,
)
from tests.builders.commands import NOW
from tests.builders.examples import ACCOUNT_ID, PLAN
from tests.projections.conftest import Fold

Calibrated = Callable[..., Calibration]

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
    """Jobs that are approved and scored, one minute after another."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._minutes = 0

    def approve(self, **plan: object) -> UUID:
        with self._minute("approve"):
            job = Job.approve(uuid4(), ACCOUNT_ID, PLAN.model_copy(update=plan), ESTIMATE)
            self._log.commit(job)
        return job.id

    def train(self, job_id: UUID, steps: int, early: EarlyStop | None = None) -> UUID:
        """Start to train a job with a planned number of steps. Return its ID."""
        with self._minute("train"):
            job = self._log.load(Job, job_id)
            self._train(job, steps)
            if early is not None:
                job.stop_early(1, early)
            self._log.commit(job)
        return job_id

    def _train(self, job: Job, steps: int = ESTIMATE.total_steps) -> None:
        job.allocate_segment(1)
        job.start_training(1, 0, steps, train_examples=900, eval_examples=100)

    def score(
        self,
        job_id: UUID,
        factor: float,
        *,
        segments: int = 1,
        gpu_count: int | None = None,
        without: Phase | None = None,
    ) -> None:
        """Score a job that took `factor` times the modelled seconds in every phase."""
        spent = {phase: factor * s for phase, s in MODEL_SECONDS.items() if phase is not without}
        with self._minute("score"):
            job = self._log.load(Job, job_id)
            if job.running is None:
                self._train(job)
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
def calibrated(fold: Fold) -> Calibrated:
    def of(
        base: str = "tiny", gpu: str = "cpu", precision: str = "bf16", count: int = 1
    ) -> Calibration:
        return calibration(fold(ESTIMATES), base, gpu, Precision(precision), count)

    return of


def test_a_row_has_the_approved_range_and_then_the_actual_values(
    platform: Platform, fold: Fold
) -> None:
    first, second = platform.approve(), platform.approve()
    platform.score(second, 1.2, segments=2)
    rows = report_rows(fold(ESTIMATES))
    assert [row["job_id"] for row in rows] == [first, second]
    assert [row["actual_micros"] for row in rows] == [None, 144_000]
    row = rows[1]
    assert (row["low_seconds"], row["high_seconds"]) == (120, 156)
    assert (row["low_micros"], row["high_micros"]) == (120_000, 156_000)
    assert (row["tokens"], row["total_steps"], row["precision"]) == (30_000, 30, "bf16")
    assert (row["segments"], row["actual_seconds"]) == (2, 144)
    assert row["phase_seconds"][Phase.TRAINING] == pytest.approx(120.0)


def test_the_accuracy_is_of_jobs_that_ended_in_one_segment(platform: Platform, fold: Fold) -> None:
    jobs = [platform.approve() for _ in range(5)]
    connection = fold(ESTIMATES)
    assert summary(connection) is None
    for job_id, factor in zip(jobs, (1.0, 2.0, 1.2), strict=False):
        platform.score(job_id, factor)
    platform.score(jobs[3], 5.0, segments=2)
    connection = fold(ESTIMATES)
    found = summary(connection)
    assert found is not None
    assert (found.scored, found.in_segments, found.inside) == (3, 1, 2)
    assert found.width == pytest.approx(0.3)
    assert found.bias == pytest.approx(144_000 / math.sqrt(120_000 * 156_000) - 1)
    assert summary(connection, ACCOUNT_ID) == found
    assert summary(connection, uuid4()) is None
    connection.execute("UPDATE estimates SET low_micros = 0, high_micros = 0")
    assert summary(connection) is None, "a free job has no range"


def test_estimates_are_read_in_parts(platform: Platform, fold: Fold) -> None:
    jobs = [platform.approve() for _ in range(3)]
    connection = fold(ESTIMATES)
    first = rows_after(connection, None, 2)
    rest = rows_after(connection, first[-1], 2)
    assert [row["job_id"] for row in (*first, *rest)] == jobs
    assert rows_after(connection, rest[-1], 2) == []
    assert [row["job_id"] for row in newest_rows(connection, 2)] == [jobs[2], jobs[1]]
    assert count_estimates(connection) == 3


def test_unfinished_jobs_do_not_calibrate(platform: Platform, calibrated: Calibrated) -> None:
    platform.approve()
    assert calibrated() == Calibration(factors={}, jobs=0)


def test_a_factor_is_the_median_of_a_phase_that_is_modelled(
    platform: Platform, calibrated: Calibrated
) -> None:
    for factor in (0.9, 5.0, 1.1):
        platform.score(platform.approve(), factor)
    found = calibrated()
    assert found.jobs == 3
    assert set(found.factors) == set(Phase) - {Phase.DATASET_PREP, Phase.REFERENCE}
    assert all(each == pytest.approx(1.1) for each in found.factors.values())


def test_only_the_last_jobs_calibrate(platform: Platform, calibrated: Calibrated) -> None:
    for factor in (3.0, 1.5):
        for _ in range(CALIBRATION_JOBS):
            platform.score(platform.approve(), factor)
    found = calibrated()
    assert found.jobs == CALIBRATION_JOBS
    assert found.factors[Phase.TRAINING] == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("plan", "kind"),
    [
        ({"base_model": "other"}, {"base": "other"}),
        ({"gpu_type": "l4"}, {"gpu": "l4"}),
        ({"precision": Precision.NF4}, {"precision": "nf4"}),
        ({"gpu_count": 2}, {"count": 2}),
    ],
)
def test_a_job_calibrates_only_its_own_kind(
    platform: Platform, calibrated: Calibrated, plan: dict[str, Any], kind: dict[str, Any]
) -> None:
    platform.score(platform.approve(**plan), 2.0)
    assert calibrated().jobs == 0
    assert calibrated(**kind).factors[Phase.TRAINING] == pytest.approx(2.0)


@pytest.mark.parametrize("score", [{"segments": 2}, {"gpu_count": 2}])
def test_a_job_with_several_segments_or_other_gpus_does_not_calibrate(
    platform: Platform, calibrated: Calibrated, score: dict[str, Any]
) -> None:
    platform.score(platform.approve(), 6.0, **score)
    assert calibrated().jobs == 0


@pytest.mark.parametrize(
    ("planned_steps", "jobs"), [(27, 1), (30, 1), (33, 1), (26, 0), (34, 0), (300, 0)]
)
def test_a_job_with_other_steps_than_estimated_does_not_calibrate(
    platform: Platform, calibrated: Calibrated, planned_steps: int, jobs: int
) -> None:
    platform.score(platform.train(platform.approve(), planned_steps), 6.0)
    assert calibrated().jobs == jobs


def test_other_jobs_calibrate_in_place_of_those_with_other_steps(
    platform: Platform, calibrated: Calibrated
) -> None:
    platform.score(platform.approve(), 1.5)
    for _ in range(CALIBRATION_JOBS):
        platform.score(platform.train(platform.approve(), 90), 6.0)
    assert calibrated().factors[Phase.TRAINING] == pytest.approx(1.5)


@pytest.mark.parametrize("reported", [30, 15], ids=["before the stop", "after the stop"])
@pytest.mark.parametrize(("planned_steps", "jobs"), [(30, 1), (90, 0)])
def test_the_planned_steps_of_an_early_stop_decide(
    platform: Platform, calibrated: Calibrated, reported: int, planned_steps: int, jobs: int
) -> None:
    early = EarlyStop(
        step=15,
        planned_steps=planned_steps,
        evaluations=3,
        eval_loss=2.0,
        lowest_step=5,
        lowest_eval_loss=1.9,
    )
    platform.score(platform.train(platform.approve(), reported, early), 1.2)
    found = calibrated()
    assert found.jobs == jobs
    if jobs:
        assert found.factors[Phase.TRAINING] == pytest.approx(2.4)


@pytest.mark.parametrize(("measured", "factor"), [(1000.0, MAX_FACTOR), (0.0, MIN_FACTOR)])
def test_a_factor_is_bounded_and_a_missing_phase_has_none(
    platform: Platform, calibrated: Calibrated, measured: float, factor: float
) -> None:
    platform.score(platform.approve(), measured, without=Phase.EVALUATION)
    assert calibrated().factors[Phase.TRAINING] == factor
    assert Phase.EVALUATION not in calibrated().factors
