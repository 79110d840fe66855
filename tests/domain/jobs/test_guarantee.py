"""The price guarantee of a job: charges stop at the upper bound of each approved estimate."""

from __future__ import annotations

import pytest

from domain.jobs.guarantee import Guarantee
from domain.jobs.job import Job
from domain.jobs.lifecycle import PauseReason, SegmentEnd
from domain.training.training_plan import Order
from tests.builders.examples import ACCOUNT_ID, ESTIMATE, JOB_ID, PLAN
from tests.builders.scenario import after, allocates, ends, saves, trains

SECOND_MICROS = 1000
HIGH_SECONDS = ESTIMATE.high_seconds
FACTOR = 3


def approved(factor: float = FACTOR, max_cost_micros: int | None = None) -> Job:
    order = Order(max_cost_micros=max_cost_micros)
    return Job.approve(JOB_ID, ACCOUNT_ID, PLAN, ESTIMATE, order, factor)


def runs(given: Job, seconds: int, end: SegmentEnd, reason: PauseReason | None = None) -> Job:
    """Run a segment that saves a checkpoint at its end."""
    step = 5 * (given.segment + 1)
    return after(
        given,
        allocates,
        trains(given.step),
        saves(step, seconds),
        ends(end, seconds, shortfall=reason),
    )


def resumes(given: Job, factor: float = FACTOR) -> Job:
    used = given.usage
    guarantee = Guarantee.of(ESTIMATE, factor, used.paid_micros, used.paid_seconds)
    return after(given, lambda job: job.resume(ESTIMATE, 2 * 3_600_000, "v2", 1, guarantee))


def test_an_approval_guarantees_the_upper_bound_for_several_times_its_time() -> None:
    expected = Guarantee(micros=ESTIMATE.high_micros, seconds=FACTOR * HIGH_SECONDS)
    assert approved().guarantee == expected


def test_without_a_factor_or_on_free_gpus_there_is_no_guarantee() -> None:
    free = ESTIMATE.model_copy(update={"rate_micros_per_hour": 0})
    assert approved(factor=0).guarantee is None
    assert Guarantee.of(free, FACTOR) is None
    assert approved(factor=0).left_of_guarantee(10**9) is None


@pytest.mark.parametrize(
    ("end", "seconds"), [(SegmentEnd.CRASHED, 100), (SegmentEnd.LEASE_ENDED, 200)]
)
def test_a_relaunch_stays_under_the_same_guarantee(end: SegmentEnd, seconds: int) -> None:
    given = approved()
    guarantee = given.guarantee
    runs(given, seconds, end)
    assert given.guarantee == guarantee
    assert given.left_seconds == FACTOR * HIGH_SECONDS - seconds
    assert given.usage.paid_micros == min(seconds, HIGH_SECONDS) * SECOND_MICROS
    assert given.usage.price_micros == seconds * SECOND_MICROS


def test_work_that_a_fault_lost_counts_neither_as_cost_nor_as_time() -> None:
    given = after(approved(), allocates, trains(0), saves(5, 30), ends(SegmentEnd.CRASHED, 150))
    assert given.usage.paid_micros == 30 * SECOND_MICROS
    assert given.left_seconds == FACTOR * HIGH_SECONDS - 30


def test_a_resume_adds_its_upper_bound_to_what_was_paid() -> None:
    given = runs(approved(), 100, SegmentEnd.LEASE_ENDED, PauseReason.BALANCE)
    resumes(given)
    assert given.guarantee == Guarantee(
        micros=100 * SECOND_MICROS + ESTIMATE.high_micros, seconds=100 + FACTOR * HIGH_SECONDS
    )
    runs(given, 500, SegmentEnd.COMPLETED)
    assert given.usage.paid_micros == given.guarantee.micros


def test_a_resume_after_an_overrun_adds_its_upper_bound_to_the_guarantee() -> None:
    seconds = FACTOR * HIGH_SECONDS
    given = runs(approved(), seconds, SegmentEnd.LEASE_ENDED, PauseReason.OVERRUN)
    assert given.left_seconds == 0
    resumes(given)
    assert given.guarantee is not None
    assert given.guarantee.micros == 2 * ESTIMATE.high_micros
    assert given.left_seconds == FACTOR * HIGH_SECONDS


def test_a_resume_without_a_factor_ends_the_guarantee() -> None:
    given = runs(approved(), 100, SegmentEnd.LEASE_ENDED, PauseReason.BALANCE)
    assert resumes(given, factor=0).guarantee is None


@pytest.mark.parametrize(
    ("below", "pauses"),
    [(1, True), (0, False), (-1, False)],
    ids=["below the guarantee", "at the guarantee", "above the guarantee"],
)
def test_the_lower_of_guarantee_and_maximum_cost_ends_the_charges(below: int, pauses: bool) -> None:
    assert approved(max_cost_micros=ESTIMATE.high_micros - below).pauses_at_max_cost is pauses


def test_a_maximum_cost_without_a_guarantee_pauses_the_job() -> None:
    assert approved(factor=0, max_cost_micros=10**9).pauses_at_max_cost
    assert not approved(factor=0).pauses_at_max_cost
