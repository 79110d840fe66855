"""Deletion of old log lines."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from domain.jobs.job import Job, SegmentEnd
from infrastructure.consumer import OrderedConsumer
from infrastructure.measurements import add_log_line, add_step, log_lines_of, steps_of
from infrastructure.reports import LogLine, StepMeasured
from infrastructure.store import Connection
from projections import JOB_DETAIL
from projections.projection import ProjectionEffect
from services.scheduler.retention import delete_old_logs
from tests.builders.commands import NOW, FixedClock, command
from tests.builders.examples import ACCOUNT_ID, JOB_ID, PLAN
from tests.builders.history import History


def test_old_log_lines_are_deleted_and_metrics_stay(
    log: EventLog, pool: ConnectionPool[Connection], history: History
) -> None:
    running, kept = uuid4(), timedelta(days=90)
    history.run_until("training")
    history.cancel()
    history.end_segment(1, SegmentEnd.STOPPED, 60)
    with command("another job that runs"):
        log.commit(Job.approve(running, ACCOUNT_ID, PLAN))
    OrderedConsumer(ProjectionEffect(JOB_DETAIL, pool.connection), log).catch_up()
    with pool.connection() as connection:
        for job_id in (JOB_ID, running):
            add_log_line(connection, logged(job_id))
        add_step(connection, measured(JOB_ID))

    def left() -> list[UUID]:
        with pool.connection() as connection:
            assert steps_of(connection, JOB_ID) != []
            return [each for each in (JOB_ID, running) if log_lines_of(connection, each)]

    delete_old_logs(pool, FixedClock(NOW + kept), kept)
    assert left() == [JOB_ID, running]
    delete_old_logs(pool, FixedClock(NOW + kept + timedelta(seconds=1)), kept)
    assert left() == [running]


def logged(job_id: UUID) -> LogLine:
    return LogLine(
        account_id=ACCOUNT_ID,
        job_id=job_id,
        segment=1,
        n=1,
        level="INFO",
        text="loading",
        logged_at=NOW,
    )


def measured(job_id: UUID) -> StepMeasured:
    return StepMeasured(
        account_id=ACCOUNT_ID,
        job_id=job_id,
        segment=1,
        step=1,
        total_steps=9,
        train_loss=1.0,
        smoothed_loss=1.0,
        learning_rate=0.1,
        tokens=10,
        tokens_per_second=5.0,
        elapsed_seconds=1.0,
        measured_at=NOW,
    )
