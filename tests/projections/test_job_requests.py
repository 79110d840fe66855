"""Job requests, which wait for their files, and their list together with the jobs."""

from __future__ import annotations

from uuid import UUID

from domain.core.errors import Invalid
from domain.jobs.job_request import JobRequest
from infrastructure.profiles import set_job_metadata
from projections import JOB_DETAIL, JOB_REQUESTS, JOB_TIMELINE
from projections.job_requests import open_requests, ordered_jobs, requested_at
from projections.job_timeline import timeline_of
from tests.builders.commands import NOW, command
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.builders.history import History
from tests.domain.jobs.test_job_request import CHOICES, ORDER
from tests.projections.conftest import Fold

FIRST, SECOND = UUID(int=1), UUID(int=2)


def request(job_id: UUID) -> JobRequest:
    return JobRequest.ordered(job_id, ACCOUNT_ID, CHOICES, ORDER)


def test_a_request_is_open_until_it_ends(history: History, fold: Fold) -> None:
    with command():
        first, second = request(FIRST), request(SECOND)
        history.log.commit(first, second)
    assert open_requests(fold(JOB_REQUESTS)) == [FIRST, SECOND]
    with command("end"):
        first.cancel()
        second.refuse(Invalid("no"))
        history.log.commit(first, second)
    connection = fold(JOB_REQUESTS, JOB_TIMELINE)
    assert open_requests(connection) == []
    assert requested_at(connection, [FIRST, JOB_ID]) == {FIRST: NOW}
    topics = [row["topic"] for row in timeline_of(connection, SECOND)]
    assert topics == ["JobRequested", "JobRequestRefused"]


def test_requests_and_jobs_are_one_list(history: History, fold: Fold) -> None:
    history.run_until("training")
    with command():
        approved = request(JOB_ID)
        approved.approve()
        history.log.commit(approved, request(FIRST))
    connection = fold(JOB_DETAIL, JOB_REQUESTS)
    assert ordered_jobs(connection, ACCOUNT_ID, None, 9) == [FIRST, JOB_ID]
    assert ordered_jobs(connection, ACCOUNT_ID, FIRST, 9) == [JOB_ID]
    assert ordered_jobs(connection, ACCOUNT_ID, None, 1) == [FIRST]
    set_job_metadata(connection, JOB_ID, {"team": "a"})
    assert ordered_jobs(connection, ACCOUNT_ID, None, 9, {"team": "a"}) == [JOB_ID]
    assert ordered_jobs(connection, ACCOUNT_ID, None, 9, {}) == [FIRST]
