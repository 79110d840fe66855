from __future__ import annotations

from copy import deepcopy
from datetime import datetime, timedelta
from uuid import uuid4

import pytest

from domain.capacity.gpu_pool import Claim, GpuPool
from domain.core.aggregate import Cause, because
from tests.builders.commands import NOW
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


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


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
    assert given.next_fitting() is None
    given.release(first.job_id, 1)
    assert given.next_fitting() == second


def test_a_large_claim_at_the_head_is_not_overtaken_until_it_is_withdrawn() -> None:
    running, large, small = claim(), claim(2), claim(1)
    given = pool(2, running, large, small, allocated=1)
    assert (given.free, given.next_fitting()) == (1, None)
    assert topics(when(given, lambda it: it.withdraw(large.job_id))) == ["GpusRequestWithdrawn"]
    assert given.next_fitting() == small


def test_only_the_first_claim_is_served() -> None:
    first, second = claim(), claim()
    with pytest.raises(AssertionError):
        pool(1, first, second).allocate(second)


def test_a_claim_for_more_than_the_capacity_is_hopeless() -> None:
    small, large = claim(1), claim(2)
    given = pool(2, small, large)
    assert given.next_hopeless() is None
    given.change_capacity(1)
    assert given.next_hopeless() == large
    given.withdraw(large.job_id)
    assert given.next_hopeless() is None
    given.change_capacity(0)
    assert given.next_hopeless() == small


def test_only_a_queued_claim_is_withdrawn_once_and_may_return() -> None:
    running, waiting = claim(), claim()
    given = pool(1, running, waiting, allocated=1)
    withdrawn = (running.job_id, waiting.job_id, waiting.job_id, uuid4())
    assert when(given, *[lambda it, id=id: it.withdraw(id) for id in withdrawn]) == [
        fact("GpusRequestWithdrawn", job_id=waiting.job_id)
    ]
    assert given.free == 0
    assert topics(when(given, lambda it: it.request(waiting))) == ["GpusRequested"]


def test_a_job_may_have_claims_of_two_segments() -> None:
    first = claim(2)
    second = Claim(ACCOUNT_ID, first.job_id, 2, 1)
    given = pool(2, first, second)
    given.withdraw(first.job_id)
    assert given.next_fitting() == second
    given.withdraw(first.job_id)
    assert list(given.queue) == []


def test_the_counts_of_a_pool_are_those_of_its_claims() -> None:
    given = pool(4, claim(2), claim(1), claim(4), claim(1), allocated=2)
    assert (given.held_gpus, given.free) == (3, 1)
    given.change_capacity(3)
    hopeless = given.next_hopeless()
    assert hopeless is not None
    given.withdraw(hopeless.job_id)
    assert (given.next_hopeless(), len(given.queue)) == (None, 1)


def test_a_copy_of_a_pool_changes_alone() -> None:
    first, second = claim(), claim()
    given = pool(2, first, second, allocated=1)
    copied = deepcopy(given)
    copied.allocate(second)
    copied.release(first.job_id, 1)
    assert (given.free, list(given.held)) == (1, [(first.job_id, 1)])
    assert (copied.free, list(copied.held)) == (1, [(second.job_id, 1)])
    assert copied != given


def test_a_snapshot_has_the_whole_state_of_a_pool() -> None:
    given = pool(3, claim(2), claim(4), claim(1), allocated=1)
    given.collect_events()
    stored = GpuPool.Snapshot.take(given).model_dump_json()
    restored = GpuPool.Snapshot.model_validate_json(stored).mutate(None)
    assert restored == given
    assert list(restored.queue) == list(given.queue)


def test_a_larger_pool_takes_fewer_snapshots() -> None:
    given = pool(0)
    assert given.snapshot_events() == 1000
    for _ in range(8200):
        given.request(claim())
    assert given.snapshot_events() == 4096


def test_the_mean_of_running_jobs_follows_them_like_the_load_average() -> None:
    first, second = claim(), claim()
    given = pool(2, first, second, allocated=2)
    assert given.mean_running(NOW) == 0
    assert 1.2 < given.mean_running(later(60)) < 1.3
    assert given.mean_running(later(600)) == pytest.approx(2, abs=1e-3)
    with because(Cause("test", "release", later(600))):
        given.release(first.job_id, 1)
    assert given.mean_running(later(600)) == pytest.approx(2, abs=1e-3)
    assert 1.3 < given.mean_running(later(660)) < 1.4
    assert given.mean_running(later(500)) == given.mean_running(later(600)), "of an earlier clock"
    given.collect_events()
    restored = GpuPool.Snapshot.take(given).mutate(None)
    assert restored.mean_running(later(660)) == given.mean_running(later(660))


def test_an_older_snapshot_has_no_mean() -> None:
    given = pool(1, claim(), allocated=1)
    given.collect_events()
    stored = GpuPool.Snapshot.take(given).model_dump(mode="json")
    del stored["state"]["mean_jobs"], stored["state"]["mean_at"]
    GpuPool.Snapshot.upcast_v1_v2(stored)
    restored = GpuPool.Snapshot.model_validate(stored).mutate(None)
    assert restored.mean_running(NOW) == 1


@pytest.mark.parametrize(
    ("capacity", "count", "others", "most"),
    [
        (2, 1, {}, 0),
        (2, 1, {1: 1}, 1),
        (2, 1, {1: 9}, 1),  # the others wait
        (2, 2, {1: 9}, 0),
        (2, 0, {1: 9}, 2),  # the job runs in another pool of the machine
        (5, 1, {2: 1, 1: 1}, 2),
        (5, 1, {2: 3, 1: 1}, 2),
        (1, 2, {1: 3}, 0),
    ],
)
def test_a_job_shares_a_machine_with_those_that_fit_beside_it(
    capacity: int, count: int, others: dict[int, int], most: int
) -> None:
    assert pool(capacity).most_beside(count, others) == most


def test_segments_above_a_reduced_capacity_still_run() -> None:
    given = pool(2, claim(), claim(), allocated=2)
    given.change_capacity(0)
    assert given.most_beside(0, {1: 2}) == 2
