"""Estimated waits on a simulated pool are close to the real waits."""

from __future__ import annotations

import math

import pytest

from tests.simulation.pool import CAPACITY, JOBS, Accuracy, SimulatedJob, simulate


@pytest.fixture(scope="module")
def jobs() -> list[SimulatedJob]:
    return simulate()


def start(job: SimulatedJob) -> float:
    assert job.started_at is not None
    return job.started_at


def test_the_pool_serves_jobs_in_order_and_within_its_capacity(
    jobs: list[SimulatedJob],
) -> None:
    assert len(jobs) == JOBS
    starts = [start(job) for job in jobs]
    assert starts == sorted(starts), "first come, first served"
    assert all(job.arrives_at <= start(job) for job in jobs)
    for moment in starts:
        held = [job for job in jobs if start(job) <= moment < start(job) + job.duration]
        assert sum(job.count for job in held) <= CAPACITY


def test_a_job_has_an_estimated_wait_exactly_if_it_waits(jobs: list[SimulatedJob]) -> None:
    for job in jobs:
        assert (job.eta is None) == (start(job) == job.arrives_at)
        assert job.eta is None or job.eta > 0


def test_without_noise_every_estimate_is_right() -> None:
    """Except for half a step, which is not observable, and for jobs that end early."""
    jobs = simulate(noise=0.0)
    sure = [job for job in jobs if job.ends_early_at is None]
    assert Accuracy.of(sure, lambda job: job.eta).median_error < 0.01


@pytest.mark.parametrize("seed", [2026, 1, 2])
def test_the_median_error_is_below_25_percent_and_below_the_naive_one(seed: int) -> None:
    jobs = simulate(seed)
    announced = Accuracy.of(jobs, lambda job: job.eta)
    naive = Accuracy.of(jobs, lambda job: job.naive)
    assert announced.waited > 100
    assert announced.median_error < min(0.25, naive.median_error)
    assert math.isfinite(announced.p90_error)
