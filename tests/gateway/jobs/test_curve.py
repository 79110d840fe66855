"""The reduced loss curve of a job keeps every spike."""

from __future__ import annotations

from random import Random

from gateway.jobs.curve import MOST_POINTS, thinned, undone
from infrastructure.training.measurements import MeasuredStep


def steps(count: int) -> list[MeasuredStep]:
    random = Random(1)
    return [MeasuredStep(n, 1, 3 / n**0.5 + random.random(), 1.0) for n in range(1, count + 1)]


def test_few_steps_are_all_shown() -> None:
    assert thinned(steps(1500), 1500) == steps(1500)


def test_many_steps_keep_every_spike_and_both_ends_in_order() -> None:
    measured = steps(100_000)
    measured[54_321] = MeasuredStep(54_322, 1, 99.0, 1.0)
    measured[77_777] = MeasuredStep(77_778, 1, -99.0, 1.0)
    kept = thinned(measured, MOST_POINTS)
    assert MOST_POINTS // 2 < len(kept) <= MOST_POINTS
    assert [each.step for each in kept] == sorted({each.step for each in kept})
    assert {99.0, -99.0} <= {each.loss for each in kept}
    assert kept[0].step < 200
    assert kept[-1].step > 99_800


def test_ranges_without_a_step_are_left_out() -> None:
    measured = [MeasuredStep(n, 1, 1.0, 1.0) for n in (*range(1, 60), 10_000)]
    assert [each.step for each in thinned(measured, 20)] == [1, 10_000]


def test_a_later_launch_discards_later_points_of_earlier_ones() -> None:
    standing = [MeasuredStep(n, 1 if n <= 50 else 2, 1.0, 1.0) for n in range(1, 56)]
    evaluated = ((0, 1), (50, 1), (52, 1), (52, 2), (60, 1))
    assert [undone(standing, *each) for each in evaluated] == [False, False, True, False, True]
    assert not undone([], 50, 1)
