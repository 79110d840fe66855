"""Job requests: orders that wait for their files, in one list with the jobs."""

from __future__ import annotations

from uuid import UUID

from psycopg_pool import ConnectionPool

from domain.core.errors import Invalid
from domain.core.event_log import EventLog
from domain.jobs.job_request import JobRequest
from infrastructure.profiles import set_job_metadata
from infrastructure.store import Connection
from projections import JOB_DETAIL, JOB_REQUESTS, JOB_TIMELINE
from projections.job_requests import open_requests, ordered_jobs, requested_at
from projections.job_timeline import timeline_of
from tests.builders.commands import NOW, command
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.builders.history import History
from tests.domain.jobs.test_job_request import CHOICES, ORDER
from tests.projections.conftest import Fold

FIRST, SECOND = UUID(int=1), UUID(int=2)


def test_an_open_request_is_a_row_until_it_ends(
    log: EventLog, pool: ConnectionPool[Connection], fold: Fold
) -> None:
    with command():
        requests = [
            JobRequest.ordered(each, ACCOUNT_ID, CHOICES, ORDER) for each in (FIRST, SECOND)
        ]
        log.commit(*requests)
    fold(JOB_REQUESTS)
    with pool.connection() as connection:
        assert open_requests(connection) == [FIRST, SECOND]
        with command("end"):
            requests[0].cancel()
            requests[1].refuse(Invalid("no"))
            log.commit(*requests)
        fold(JOB_REQUESTS, JOB_TIMELINE)
        assert open_requests(connection) == []
        assert requested_at(connection, [FIRST, JOB_ID]) == {FIRST: NOW}
        history = [row["topic"] for row in timeline_of(connection, SECOND)]
        assert history == ["JobRequested", "JobRequestRefused"]


def test_requests_and_jobs_are_one_list(
    log: EventLog, pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.run_until("training")
    with command():
        approved = JobRequest.ordered(JOB_ID, ACCOUNT_ID, CHOICES, ORDER)
        approved.approve()
        log.commit(approved, JobRequest.ordered(FIRST, ACCOUNT_ID, CHOICES, ORDER))
    fold(JOB_DETAIL, JOB_REQUESTS)
    with pool.connection() as connection:
        assert ordered_jobs(connection, ACCOUNT_ID, None, 9) == [FIRST, JOB_ID]
        assert ordered_jobs(connection, ACCOUNT_ID, FIRST, 9) == [JOB_ID]
        assert ordered_jobs(connection, ACCOUNT_ID, None, 1) == [FIRST]
        set_job_metadata(connection, JOB_ID, {"team": "a"})
        assert ordered_jobs(connection, ACCOUNT_ID, None, 9, {"team": "a"}) == [JOB_ID]
        assert ordered_jobs(connection, ACCOUNT_ID, None, 9, {}) == [FIRST]
