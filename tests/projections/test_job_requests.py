"""Job requests, which wait for their files, and their list together with the jobs."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from domain.core.errors import Invalid
from domain.jobs.job_request import JobRequest
from infrastructure.accounts.profiles import set_job_metadata
from projections import JOB_DETAIL, JOB_REQUESTS, JOB_TIMELINE
from projections.job_detail import Choice
from projections.job_requests import (
    open_requests,
    open_requests_by_account,
    ordered_jobs,
    requested_at,
)
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


def test_open_requests_are_counted_by_choice(history: History, fold: Fold) -> None:
    other = replace(CHOICES, base_model="large", region="oslo")
    with command():
        cancelled = request(UUID(int=4))
        cancelled.cancel()
        history.log.commit(
            request(FIRST),
            request(SECOND),
            JobRequest.ordered(UUID(int=3), UUID(int=30), other, ORDER),
            cancelled,
        )
    connection = fold(JOB_REQUESTS)

    def counted(choice: Choice) -> dict[UUID, tuple[int, int]]:
        rows = open_requests_by_account(connection, choice)
        return {row["account_id"]: (row["requested"], row["unplaced"]) for row in rows}

    assert counted(Choice(gpu_type="cpu")) == {ACCOUNT_ID: (2, 0), UUID(int=30): (1, 0)}
    assert counted(Choice(region="oslo")) == {ACCOUNT_ID: (0, 2), UUID(int=30): (1, 0)}
    assert counted(Choice(region="local", gpu_type="cpu")) == {ACCOUNT_ID: (0, 2)}
    assert counted(Choice(base_model="large")) == {UUID(int=30): (1, 0)}
    assert counted(Choice(gpu_type="l4")) == {}


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
