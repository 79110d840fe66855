from __future__ import annotations

from uuid import uuid4

import pytest

from domain.capacity.gpu_pool import Claim, GpuPool
from tests.builders.examples import ACCOUNT_ID
from tests.builders.scenario import fact, topics, when


def claim(count: int = 1) -> Claim:
    return Claim(ACCOUNT_ID, uuid4(), 1, count)


def pool(capacity: int, *queue: Claim, allocated: int = 0) -> GpuPool:
    """Return a pool with some claims, the first of which have their GPUs."""
    opened = GpuPool.open("local", "cpu")
    opened.change_capacity(capacity)
    for each in queue:
        opened.request(each)
    for each in queue[:allocated]:
        opened.allocate(each)
    return opened


def test_a_claim_is_queued_and_served_once() -> None:
    first = claim()
    steps = [
        *[lambda given: given.request(first)] * 2,
        lambda given: given.allocate(first),
        lambda given: given.request(first),
        lambda given: given.release(uuid4(), 1),
    ]
    given = pool(1)
    assert when(given, *steps) == [
        fact("GpusRequested", job_id=first.job_id, segment=1, count=1, account_id=ACCOUNT_ID),
        fact("GpusAllocated", job_id=first.job_id, segment=1, count=1),
    ]
    assert given.free == 0


@pytest.mark.parametrize("capacity", [1, 2])
def test_the_second_claim_waits_until_the_first_is_released(capacity: int) -> None:
    first, second = claim(), claim()
    given = pool(capacity, first, second, allocated=1)
    given.change_capacity(1)
    assert given.next_fitting is None
    given.release(first.job_id, 1)
    assert given.next_fitting == second


def test_a_large_claim_at_the_head_is_not_overtaken_until_it_is_withdrawn() -> None:
    running, large, small = claim(), claim(2), claim(1)
    given = pool(2, running, large, small, allocated=1)
    assert (given.free, given.next_fitting) == (1, None)
    assert topics(when(given, lambda it: it.withdraw(large.job_id))) == ["GpusRequestWithdrawn"]
    assert given.next_fitting == small


def test_only_the_first_claim_is_served() -> None:
    first, second = claim(), claim()
    with pytest.raises(AssertionError):
        pool(1, first, second).allocate(second)


def test_a_claim_for_more_than_the_capacity_is_hopeless() -> None:
    small, large = claim(1), claim(2)
    given = pool(2, small, large)
    assert given.next_hopeless is None
    given.change_capacity(1)
    assert given.next_hopeless == large
    given.withdraw(large.job_id)
    assert given.next_hopeless is None
    given.change_capacity(0)
    assert given.next_hopeless == small


def test_only_a_queued_claim_is_withdrawn_once_and_may_return() -> None:
    running, waiting = claim(), claim()
    given = pool(1, running, waiting, allocated=1)
    withdrawn = (running.job_id, waiting.job_id, waiting.job_id, uuid4())
    assert when(given, *[lambda it, id=id: it.withdraw(id) for id in withdrawn]) == [
        fact("GpusRequestWithdrawn", job_id=waiting.job_id)
    ]
    assert given.free == 0
    assert topics(when(given, lambda it: it.request(waiting))) == ["GpusRequested"]
