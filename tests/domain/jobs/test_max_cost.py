"""The maximum cost of a job: in the approval, changed later, and as the reason for a pause."""

from __future__ import annotations

import pytest

from domain.core.errors import Invalid, WrongState
from domain.jobs.job import Job
from domain.jobs.lifecycle import PauseReason, SegmentEnd
from domain.training.training_plan import Order
from tests.builders.examples import ACCOUNT_ID, ESTIMATE, JOB_ID, PLAN
from tests.builders.scenario import CANCELLED, Step, after, ends, fact, job, running, saves, when

SECOND_MICROS = 1000


def approved(max_cost_micros: int | None) -> Job:
    order = Order(max_cost_micros=max_cost_micros)
    given = Job.approve(JOB_ID, ACCOUNT_ID, PLAN, ESTIMATE, order)
    given.collect_events()
    return given


def changes(max_cost_micros: int | None) -> Step:
    return lambda given: given.change_max_cost(max_cost_micros)


@pytest.mark.parametrize("max_cost_micros", [-1, 0, SECOND_MICROS - 1])
def test_a_maximum_cost_below_a_second_is_refused(max_cost_micros: int) -> None:
    with pytest.raises(Invalid) as refusal:
        approved(max_cost_micros)
    assert refusal.value.field == "max_cost"
    with pytest.raises(Invalid):
        job().change_max_cost(max_cost_micros)


def test_the_owner_raises_and_removes_the_maximum_cost() -> None:
    given = approved(50_000)
    assert when(given, *[changes(each) for each in (50_000, 80_000, None, None)]) == [
        fact("MaxCostChanged", max_cost_micros=80_000),
        fact("MaxCostChanged", max_cost_micros=None),
    ]
    assert given.left_of_max_cost(10**9) is None


@pytest.mark.parametrize("given", [(), (*CANCELLED[:3],)], ids=["queued", "running"])
def test_a_job_without_a_maximum_cost_can_get_one(given: tuple[Step, ...]) -> None:
    assert when(job(*given), changes(70_000)) == [fact("MaxCostChanged", max_cost_micros=70_000)]


def test_the_maximum_cost_of_an_ended_job_stays() -> None:
    with pytest.raises(WrongState):
        job(*CANCELLED).change_max_cost(70_000)


def test_charges_reduce_what_is_left_to_zero() -> None:
    given = approved(50_000)
    assert [given.left_of_max_cost(each) for each in (0, 20_000, 50_000, 50_001)] == [
        *(50_000, 30_000, 0, 0)
    ]


def test_a_job_at_its_maximum_cost_pauses_when_its_lease_ends() -> None:
    given = running(saves(10))
    end = ends(SegmentEnd.LEASE_ENDED, 301, grace_seconds=1, shortfall=PauseReason.MAX_COST)
    assert when(given, end) == [
        fact("SegmentEnded"),
        fact("JobPaused", reason=PauseReason.MAX_COST, step=10),
    ]


def test_a_queued_job_at_its_maximum_cost_pauses() -> None:
    pauses = [lambda given: given.deplete(PauseReason.MAX_COST)]
    assert when(job(), *pauses) == [fact("JobPaused", reason=PauseReason.MAX_COST)]
    assert when(after(running()), *pauses) == []
