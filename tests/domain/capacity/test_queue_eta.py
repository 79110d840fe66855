"""Waiting: first come, first served, and a head that does not fit blocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.capacity.queue_eta import Occupied, Queued, wait_seconds, waits_in_queue


@pytest.mark.parametrize(
    ("running", "queue", "count", "wait"),
    [
        ([], [], 2, 0.0),
        ([Occupied(2, 30.0)], [], 2, 0.0),
        ([Occupied(3, 30.0)], [], 2, 30.0),
        ([Occupied(2, 30.0), Occupied(2, 50.0)], [], 3, 50.0),
        ([Occupied(4, 30.0)], [Queued(4, 100.0)], 1, 130.0),
        # The head waits for all four, and a small claim behind it may not pass.
        ([Occupied(1, 30.0)], [Queued(4, 100.0)], 1, 130.0),
        # A claim that fits beside the head starts with it.
        ([Occupied(4, 30.0)], [Queued(2, 100.0)], 2, 30.0),
        # Over its estimate: it ends at once rather than in the past.
        ([Occupied(4, -5.0)], [], 1, 0.0),
    ],
)
def test_the_wait(running: list[Occupied], queue: list[Queued], count: int, wait: float) -> None:
    assert wait_seconds(4, running, queue, count) == wait


def test_a_claim_that_the_pool_is_too_small_for_waits_for_ever_and_so_do_those_behind() -> None:
    assert wait_seconds(4, [Occupied(1, 10.0)], [], 5) is None
    assert wait_seconds(4, [], [Queued(5, 10.0)], 1) is None
    assert wait_seconds(0, [], [], 1) is None


def test_a_shrunken_pool_drains_first() -> None:
    running = [Occupied(2, 10.0), Occupied(2, 20.0)]
    assert wait_seconds(2, running, [], 1) == 20.0


def by_the_second(
    capacity: int, running: list[Occupied], queue: list[Queued], count: int
) -> float | None:
    """The same, second by second, with whole seconds."""
    ends = [(int(each.remaining_seconds), each.count) for each in running]
    waiting = [*queue, Queued(count, 0)]
    for now in range(1000):
        ends = [(end, held) for end, held in ends if end > now]
        while waiting and waiting[0].count <= capacity - sum(held for _, held in ends):
            head = waiting.pop(0)
            if not waiting:
                return float(now)
            if head.seconds > 0:
                ends.append((now + int(head.seconds), head.count))
    return None


@given(
    st.integers(0, 8),
    st.lists(st.builds(Occupied, st.integers(1, 4), st.integers(0, 30)), max_size=5),
    st.lists(st.builds(Queued, st.integers(1, 5), st.integers(0, 30)), max_size=6),
    st.integers(1, 9),
)
def test_the_wait_is_that_of_a_simulation_by_the_second(
    capacity: int, running: list[Occupied], queue: list[Queued], count: int
) -> None:
    expected = by_the_second(capacity, running, queue, count)
    assert wait_seconds(capacity, running, queue, count) == expected


def test_claims_behind_one_that_exceeds_the_capacity_have_no_wait() -> None:
    queue = [Queued(1, 10.0), Queued(3, 10.0), Queued(1, 10.0)]
    assert waits_in_queue(2, [Occupied(2, 5.0)], queue) == [5.0, None, None]
