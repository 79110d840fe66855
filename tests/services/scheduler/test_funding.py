"""Reasons why a job cannot pay for another launch."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from domain.billing.budget import BudgetName, BudgetPeriod
from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from domain.jobs.job import Job
from domain.jobs.lifecycle import PauseReason, SegmentEnd
from services.scheduler.funding import Funding
from tests.builders.commands import NOW, command
from tests.builders.examples import ESTIMATE
from tests.builders.history import MINUTE_SECONDS, History

KEY = UUID(int=1)

SECOND = 1000
"""Price of a second, micro-dollars."""


@pytest.fixture
def funding(log: EventLog) -> Funding:
    return Funding(log, MINUTE_SECONDS)


def limits(history: History, seconds: float | None) -> None:
    """Change the maximum cost of the job to the price of some seconds."""
    with history.changing_job() as job:
        job.change_max_cost(None if seconds is None else int(seconds * SECOND))


def after_a_segment(history: History, seconds: int) -> None:
    """Run the first segment for some seconds."""
    history.run_until("training")
    history.end_segment(1, SegmentEnd.LEASE_ENDED, seconds)


@pytest.mark.parametrize(
    ("max_seconds", "reason"),
    [(None, None), (101, None), (100.9, PauseReason.MAX_COST), (80, PauseReason.MAX_COST)],
)
def test_a_queued_job_needs_a_second_below_its_maximum_cost(
    history: History, funding: Funding, max_seconds: float | None, reason: PauseReason | None
) -> None:
    after_a_segment(history, 100)
    limits(history, max_seconds)
    assert funding.shortfall(history.job) is reason


def test_until_the_last_segment_is_settled_a_queued_job_is_not_paused(
    history: History, funding: Funding
) -> None:
    history.run_until("training")
    limits(history, 200)
    history.end_segment(1, SegmentEnd.LEASE_ENDED, 100, settled=False)
    assert funding.shortfall(history.job) is None


@pytest.mark.parametrize(
    ("max_seconds", "ran_seconds", "reason"),
    [
        (300, 300, PauseReason.MAX_COST),
        (359, 300, PauseReason.MAX_COST),
        (360, 300, None),
        (359, 299, None),
        (359, None, PauseReason.MAX_COST),
    ],
    ids=["nothing left", "59 s left", "a minute left", "unused lease", "overrun"],
)
def test_after_its_lease_a_job_needs_a_minute_below_its_maximum_cost(
    history: History,
    funding: Funding,
    max_seconds: int,
    ran_seconds: int | None,
    reason: PauseReason | None,
) -> None:
    history.run_until("training")
    limits(history, max_seconds)
    assert funding.shortfall_after_lease(history.job, ran_seconds) is reason


@pytest.mark.parametrize(
    ("max_seconds", "reason"), [(100, PauseReason.MAX_COST), (101, PauseReason.BALANCE)]
)
def test_a_refused_lease_has_the_reason_of_its_limit(
    history: History, funding: Funding, max_seconds: int, reason: PauseReason
) -> None:
    after_a_segment(history, 100)
    limits(history, max_seconds)
    history.allocate_segment(2)
    history.refuse_lease(2)
    assert funding.refused_lease(history.job) is reason


@pytest.mark.parametrize(
    ("budget_seconds", "reasons"),
    [
        (1000, (None, None, PauseReason.BALANCE)),
        (360, (None, None, PauseReason.BALANCE)),
        (359, (None, PauseReason.BUDGET, PauseReason.BALANCE)),
        (300, (PauseReason.BUDGET, PauseReason.BUDGET, PauseReason.BUDGET)),
    ],
)
def test_a_launch_needs_a_second_and_a_relaunch_a_minute_of_a_budget(
    history: History,
    funding: Funding,
    budget_seconds: int,
    reasons: tuple[PauseReason | None, ...],
) -> None:
    """The running segment of another job has a lease of 300 s."""
    history.run_until("training")
    with history.changing_account() as account:
        account.set_budget(BudgetName(BudgetPeriod.DAY), budget_seconds * SECOND, 0)
    queued = history.another_job()
    queued.approve_job(queued=False)
    with command():
        found = (
            funding.shortfall(queued.job),
            funding.shortfall_after_lease(history.job, 300),
            funding.refused_lease(history.job),
        )
    assert found == reasons


def test_a_job_of_a_suspended_account_does_not_launch(history: History, funding: Funding) -> None:
    history.run_until("training")
    history.suspend()
    found = (
        funding.shortfall(history.job),
        funding.shortfall_after_lease(history.job, 300),
        funding.refused_lease(history.job),
    )
    assert found == (PauseReason.SUSPENDED,) * 3
    history.reinstate()
    assert funding.shortfall_after_lease(history.job, 300) is None


def test_the_budget_of_a_key_pauses_only_its_jobs(history: History, funding: Funding) -> None:
    history.run_until("training")
    with history.changing_account() as account:
        account.set_budget(BudgetName(BudgetPeriod.TOTAL, KEY), SECOND - 1, 0)
    with because(Cause(f"key:{KEY}", "approve", NOW)):
        of_key = Job.approve(uuid4(), history.account_id, history.plan, ESTIMATE)
    with command():
        found = [funding.shortfall(of_key), funding.shortfall_after_lease(history.job, 300)]
    assert found == [PauseReason.BUDGET, None]


def test_a_launch_needs_no_more_than_the_maximum_cost_leaves(
    history: History, funding: Funding
) -> None:
    """The balance pays for 30 s. A launch needs a minute, unless the maximum cost is lower."""
    history.open_account(30 * SECOND)
    history.open_pool()
    history.approve_job(queued=False)
    assert funding.shortfall(history.job) is PauseReason.BALANCE
    limits(history, 30)
    assert funding.shortfall(history.job) is None


def guaranteed(history: History, seconds: int) -> None:
    """Run the first segment of a job with a guarantee for some seconds, at a balance for it."""
    history.guarantee_factor = 3
    history.open_account(ESTIMATE.high_micros)
    history.open_pool()
    history.approve_job()
    history.allocate_segment(1)
    history.grant_lease(1, 468)
    history.start_pod(1)
    history.start_training(1)
    history.save_checkpoint(1, 10, seconds)


@pytest.mark.parametrize(
    ("seconds", "reason"),
    [(155, None), (156, None), (467, None), (468, PauseReason.OVERRUN)],
    ids=["a charged second left", "covered", "a second left", "after three times the estimate"],
)
def test_a_covered_job_launches_at_a_balance_of_zero(
    history: History, funding: Funding, seconds: int, reason: PauseReason | None
) -> None:
    guaranteed(history, seconds)
    history.end_segment(1, SegmentEnd.STOPPED, seconds)
    assert funding.shortfall(history.job) is reason


def test_a_covered_job_launches_with_a_used_up_budget(history: History, funding: Funding) -> None:
    guaranteed(history, 200)
    history.end_segment(1, SegmentEnd.STOPPED, 200)
    with history.changing_account() as account:
        account.set_budget(BudgetName(BudgetPeriod.DAY), SECOND, SECOND)
    assert funding.shortfall(history.job) is None


@pytest.mark.parametrize(
    ("ran_seconds", "reason"),
    [(408, None), (409, PauseReason.OVERRUN), (None, PauseReason.OVERRUN)],
    ids=["a minute left", "59 s left", "nothing left"],
)
def test_after_its_lease_a_covered_job_needs_a_minute_of_its_guarantee(
    history: History, funding: Funding, ran_seconds: int | None, reason: PauseReason | None
) -> None:
    guaranteed(history, 100)
    assert funding.shortfall_after_lease(history.job, ran_seconds) is reason


def test_a_refused_lease_names_the_end_of_the_guarantee(history: History, funding: Funding) -> None:
    guaranteed(history, 468)
    history.end_segment(1, SegmentEnd.STOPPED, 468)
    assert funding.refused_lease(history.job) is PauseReason.OVERRUN
