"""Pools: capacity, what is held, and who waits."""

from __future__ import annotations

from uuid import uuid4

from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from domain.estimating.estimate import Estimate
from domain.jobs.job import SegmentEnd
from infrastructure.measurements import add_step
from infrastructure.reports import StepMeasured
from infrastructure.store import Connection
from projections import GPU_POOLS, JOB_DETAIL
from projections.gpu_pools import all_gpu_pools, capacities, claims
from tests.builders.commands import NOW
from tests.builders.examples import ACCOUNT_ID, ESTIMATE, JOB_ID
from tests.builders.history import BOUND_AT, History
from tests.projections.conftest import Fold


def test_gpus_are_waited_for_held_and_given_back(
    log: EventLog, pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    def shown() -> tuple[int, int, int]:
        fold(GPU_POOLS)
        with pool.connection() as connection:
            (row,) = all_gpu_pools(connection)
        assert row["held"] == sum(claim.count for claim in history.pool.held.values())
        return row["capacity"], row["held"], row["waiting"]

    history.run_until("approved")
    assert shown() == (1, 0, 1)
    history.allocate_segment(1)
    History(log, job_id=uuid4()).approve_job()
    assert shown() == (1, 1, 1)
    history.grant_lease(1)
    history.end_segment(1, SegmentEnd.STOPPED, 10)
    assert shown() == (1, 0, 1)


def test_a_withdrawn_claim_waits_no_more(
    pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.run_until("approved")
    history.pause()
    fold(GPU_POOLS)
    with pool.connection() as connection:
        (row,) = all_gpu_pools(connection)
        assert (row["held"], row["waiting"]) == (0, 0)
        assert claims(connection) == []
        assert capacities(connection) == {("local", "cpu"): 1}


def test_a_pools_load_is_who_runs_and_who_waits_in_order(
    log: EventLog, pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    second, third = History(log, job_id=uuid4()), History(log, job_id=uuid4())
    history.run_until("training")
    second.approve_job()
    third.approve_job()
    history.save_checkpoint(1, 10, 40)
    fold(GPU_POOLS, JOB_DETAIL)
    with pool.connection() as connection:
        add_step(
            connection,
            StepMeasured(
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
            ),
        )
        running, *queue = claims(connection)
    assert (running["state"], [row["state"] for row in queue]) == ("held", ["queued", "queued"])
    assert (running["job_id"], running["segment"], running["count"]) == (JOB_ID, 1, 1)
    assert (running["status"], running["phase"]) == ("training", "training")
    assert (running["step"], running["segment_step"], running["total_steps"]) == (10, 0, 30)
    assert running["measured_step"] == 12
    assert (running["bound_at"], running["training_since"]) == (BOUND_AT, NOW)
    assert Estimate.model_validate(running["estimate"]) == ESTIMATE
    assert [row["job_id"] for row in queue] == [second.job_id, third.job_id]
    assert Estimate.model_validate(queue[0]["estimate"]) == ESTIMATE


def test_who_leaves_the_queue_and_comes_back_stands_at_its_end(
    log: EventLog, pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    second, third = History(log, job_id=uuid4()), History(log, job_id=uuid4())
    history.run_until("training")
    second.approve_job()
    third.approve_job()
    second.pause()
    second.resume()
    second.request_gpus(1)
    fold(GPU_POOLS, JOB_DETAIL)
    with pool.connection() as connection:
        _, *queue = claims(connection)
    assert [row["job_id"] for row in queue] == [third.job_id, second.job_id]
    assert [claim.job_id for claim in history.pool.queue.values()] == [third.job_id, second.job_id]
