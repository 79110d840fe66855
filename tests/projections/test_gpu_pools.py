"""Pools: capacity, what is held, and who waits."""

from __future__ import annotations

from uuid import uuid4

from psycopg_pool import ConnectionPool

from domain.event_log import EventLog
from domain.job import SegmentEnd
from infrastructure.store import Connection
from projections import GPU_POOLS
from projections.gpu_pools import all_gpu_pools
from tests.projections.conftest import Fold
from tests.stories import Story


def test_gpus_are_waited_for_held_and_given_back(
    log: EventLog, pool: ConnectionPool[Connection], story: Story, fold: Fold
) -> None:
    def shown() -> tuple[int, int, int]:
        fold(GPU_POOLS)
        with pool.connection() as connection:
            (row,) = all_gpu_pools(connection)
        assert row["held"] == sum(claim.count for claim in story.pool.held.values())
        return row["capacity"], row["held"], row["waiting"]

    story.run_until("approved")
    assert shown() == (1, 0, 1)
    story.allocate_segment(1)
    Story(log, job_id=uuid4()).approve_job()
    assert shown() == (1, 1, 1)
    story.grant_lease(1)
    story.end_segment(1, SegmentEnd.STOPPED, 10)
    assert shown() == (1, 0, 1)
