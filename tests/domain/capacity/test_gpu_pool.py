"""GpuPool: never more than its capacity, first come first served."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from domain.capacity.gpu_pool import Claim, GpuPool
from tests.builders.examples import ACCOUNT_ID, happened


def pool(capacity: int) -> GpuPool:
    opened = GpuPool.open("local", "cpu")
    opened.change_capacity(capacity)
    opened.collect_events()
    return opened


def claim(count: int = 1, job_id: UUID | None = None) -> Claim:
    return Claim(ACCOUNT_ID, job_id or uuid4(), 1, count)


def test_a_claim_is_queued_then_served() -> None:
    given, first = pool(1), claim()
    given.request(first)
    given.allocate(first)
    assert happened(given) == ["GpusRequested", "GpusAllocated"]
    assert given.free == 0


def test_the_second_waits_until_the_first_is_done() -> None:
    given, first, second = pool(1), claim(), claim()
    given.request(first)
    given.request(second)
    given.allocate(first)
    assert given.next_fitting is None
    given.release(first.job_id, 1)
    assert given.next_fitting == second


def test_a_large_claim_at_the_head_is_not_overtaken() -> None:
    given, running, large, small = pool(2), claim(), claim(2), claim(1)
    given.request(running)
    given.allocate(running)
    given.request(large)
    given.request(small)
    assert given.free == 1
    assert given.next_fitting is None


def test_asking_twice_is_asking_once_and_releasing_nothing_is_nothing() -> None:
    given, first = pool(1), claim()
    given.request(first)
    given.request(first)
    given.allocate(first)
    given.request(first)
    given.release(uuid4(), 1)
    assert happened(given) == ["GpusRequested", "GpusAllocated"]


def test_nobody_jumps_the_queue() -> None:
    given, first, second = pool(1), claim(), claim()
    given.request(first)
    given.request(second)
    with pytest.raises(AssertionError):
        given.allocate(second)


def test_a_shrunken_pool_drains_before_it_serves() -> None:
    given, first, second = pool(2), claim(), claim()
    given.request(first)
    given.allocate(first)
    given.request(second)
    given.change_capacity(1)
    assert given.next_fitting is None
    given.release(first.job_id, 1)
    assert given.next_fitting == second


def test_a_claim_for_more_than_there_is_has_no_hope() -> None:
    given, large, small = pool(2), claim(2), claim(1)
    given.request(small)
    given.request(large)
    assert given.next_hopeless is None
    given.change_capacity(1)
    assert given.next_hopeless == large
    given.withdraw(large.job_id)
    assert given.next_hopeless is None
    given.change_capacity(0)
    assert given.next_hopeless == small


def test_a_claim_that_is_withdrawn_makes_way() -> None:
    given, running, large, small = pool(2), claim(), claim(2), claim(1)
    given.request(running)
    given.allocate(running)
    given.request(large)
    given.request(small)
    given.withdraw(large.job_id)
    assert happened(given)[-1] == "GpusRequestWithdrawn"
    assert given.next_fitting == small


def test_only_a_place_in_the_queue_can_be_withdrawn_and_only_once() -> None:
    given, running, waiting = pool(1), claim(), claim()
    given.request(running)
    given.allocate(running)
    given.request(waiting)
    given.collect_events()
    given.withdraw(running.job_id)
    given.withdraw(waiting.job_id)
    given.withdraw(waiting.job_id)
    given.withdraw(uuid4())
    assert happened(given) == ["GpusRequestWithdrawn"]
    assert given.free == 0
    given.request(waiting)
    assert happened(given) == ["GpusRequested"], "it may stand in the queue again, at its end"
