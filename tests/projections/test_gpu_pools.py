"""GPU pools: their capacity, held GPUs and queue."""

from __future__ import annotations

from itertools import pairwise
from unittest.mock import Mock
from uuid import uuid4

from domain.capacity.gpu_pool import Claim, GpuPool
from domain.core.event_log import EventLog
from domain.core.recorded import Recorded
from domain.estimating.estimate import Estimate
from domain.jobs.job import SegmentEnd
from infrastructure.training.measurements import add_step
from infrastructure.training.reports import StepMeasured
from projections import GPU_POOLS, JOB_DETAIL
from projections.gpu_pools import all_gpu_pools, capacities, claims
from tests.builders.commands import NOW, command
from tests.builders.examples import ACCOUNT_ID, ESTIMATE, JOB_ID
from tests.builders.history import BOUND_AT, History
from tests.projections.conftest import Fold

STEP = StepMeasured(
    account_id=ACCOUNT_ID,
    job_id=JOB_ID,
    segment=1,
    step=12,
    total_steps=30,
    train_loss=2.0,
    smoothed_loss=2.0,
    learning_rate=1e-4,
    tokens=100,
    tokens_per_second=50.0,
    elapsed_seconds=24.0,
    measured_at=NOW,
)


def queue_two_jobs_behind(history: History) -> tuple[History, History]:
    log: EventLog = history.log
    second, third = History(log, job_id=uuid4()), History(log, job_id=uuid4())
    history.run_until("training")
    second.approve_job()
    third.approve_job()
    return second, third


def test_a_pool_counts_held_gpus_and_waiting_claims(history: History, fold: Fold) -> None:
    def counts() -> tuple[int, int, int]:
        (row,) = all_gpu_pools(fold(GPU_POOLS))
        assert row["held"] == sum(claim.count for claim in history.pool.held.values())
        return row["capacity"], row["held"], row["waiting"]

    history.run_until("approved")
    assert counts() == (1, 0, 1)
    history.allocate_segment(1)
    History(history.log, job_id=uuid4()).approve_job()
    assert counts() == (1, 1, 1)
    history.grant_lease(1)
    history.end_segment(1, SegmentEnd.STOPPED, 10)
    assert counts() == (1, 0, 1)


def test_a_withdrawn_claim_leaves_the_queue(history: History, fold: Fold) -> None:
    history.run_until("approved")
    history.pause()
    connection = fold(GPU_POOLS)
    (row,) = all_gpu_pools(connection)
    assert (row["held"], row["waiting"]) == (0, 0)
    assert claims(connection, history.pool.id) == []
    assert capacities(connection) == {("local", "cpu"): 1}


def test_claims_have_what_determines_their_wait_in_order(history: History, fold: Fold) -> None:
    second, third = queue_two_jobs_behind(history)
    history.save_checkpoint(1, 10, 40)
    add_step(fold(GPU_POOLS, JOB_DETAIL), STEP)
    running, *queue = claims(fold(GPU_POOLS), history.pool.id)
    assert (running["state"], [row["state"] for row in queue]) == ("held", ["queued", "queued"])
    assert (running["job_id"], running["segment"], running["count"]) == (JOB_ID, 1, 1)
    assert (running["status"], running["phase"]) == ("training", "training")
    assert (running["step"], running["segment_step"], running["total_steps"]) == (10, 0, 30)
    assert running["measured_step"] == 12
    assert (running["bound_at"], running["training_since"]) == (BOUND_AT, NOW)
    assert [row["job_id"] for row in queue] == [second.job_id, third.job_id]
    for claim in (running, queue[0]):
        assert Estimate.model_validate(claim["estimate"]) == ESTIMATE


def test_a_claim_that_returns_to_the_queue_is_last(history: History, fold: Fold) -> None:
    second, third = queue_two_jobs_behind(history)
    second.pause()
    second.resume()
    second.request_gpus(1)
    _, *queue = claims(fold(GPU_POOLS, JOB_DETAIL), history.pool.id)
    assert [row["job_id"] for row in queue] == [third.job_id, second.job_id]
    assert [claim.job_id for claim in history.pool.queue.values()] == [third.job_id, second.job_id]


def test_releases_and_allocations_need_three_statements() -> None:
    queued = [Claim(ACCOUNT_ID, uuid4(), 1, 1) for _ in range(50)]
    with command("fill a pool"):
        pool = GpuPool.open("eu", "H100")
        pool.change_capacity(1)
        for claim in queued:
            pool.request(claim)
        pool.allocate(queued[0])
        before = len(pool.pending_events)
        for ended, following in pairwise(queued):
            pool.release(ended.job_id, 1)
            pool.allocate(following)
    cursor = Mock()
    GPU_POOLS.apply(cursor, [Recorded.of(1, each) for each in pool.pending_events[before:]])
    assert cursor.execute.call_count == 3  # held claims, dropped claims, counts
