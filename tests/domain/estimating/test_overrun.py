"""Overrun: by how much a job is past its estimate, and the facts that say why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from domain.estimating.overrun import Cause, Facts, overrun
from tests.builders.examples import ESTIMATE

WITHIN = Facts(
    billed_seconds=ESTIMATE.high_seconds,
    cost_micros=ESTIMATE.high_micros,
    since_approval=ESTIMATE.high_seconds,
    launches=1,
    crashes=0,
    start_seconds=60.0,
    step_seconds=0.7,
)


def causes(**changed: object) -> list[Cause]:
    over = {"billed_seconds": 200, "cost_micros": 200_000, "since_approval": 201.0}
    found = overrun(ESTIMATE, replace(WITHIN, **(over | changed)))  # type: ignore[arg-type]
    assert found is not None
    return [each.cause for each in found.reasons]


def test_a_job_within_its_estimate_has_none() -> None:
    assert overrun(ESTIMATE, WITHIN) is None


def test_by_how_much_is_counted_from_the_upper_bound() -> None:
    found = overrun(
        ESTIMATE, replace(WITHIN, billed_seconds=200, cost_micros=200_000, since_approval=260.0)
    )
    assert found is not None
    assert (found.seconds, found.micros, found.late_seconds) == (44, 40_000, 104)


def test_a_cost_that_is_shown_as_the_upper_bound_does_not_exceed_it() -> None:
    assert overrun(ESTIMATE, replace(WITHIN, cost_micros=164_999)) is None
    found = overrun(ESTIMATE, replace(WITHIN, cost_micros=165_000))
    assert found is not None
    assert found.micros == 10_000


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ({"step_seconds": 2.0}, Cause.SLOW_STEPS),
        ({"start_seconds": 120.0}, Cause.SLOW_START),
        ({"crashes": 1, "launches": 2}, Cause.CRASHES),
        ({"launches": 2}, Cause.PAUSES),
        ({"since_approval": 400.0}, Cause.WAITING),
    ],
)
def test_each_cause_is_read_from_the_facts(changed: dict[str, object], cause: Cause) -> None:
    assert causes() == []
    assert causes(**changed) == [cause]


def test_the_sentences_have_the_figures() -> None:
    found = overrun(
        ESTIMATE, replace(WITHIN, billed_seconds=200, step_seconds=2.0, crashes=2, launches=3)
    )
    assert found is not None
    slow, crashed = (each.sentence for each in found.reasons)
    assert all(figure in slow for figure in ("2 s", "2.6 times", "0.76 s"))
    assert "2 times" in crashed


def test_a_job_that_only_waited_is_late_and_costs_no_more() -> None:
    found = overrun(ESTIMATE, replace(WITHIN, billed_seconds=20, since_approval=700.0))
    assert found is not None
    assert (found.seconds, found.micros, found.late_seconds) == (0, 0, 544)
    assert [each.cause for each in found.reasons] == [Cause.WAITING]
