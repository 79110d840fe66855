"""The list of an account's jobs, which polls for changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from itertools import chain
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from domain.jobs.job_request import RequestStatus
from domain.jobs.lifecycle import JobStatus
from gateway.backend import Backend, BackendOf
from gateway.billing.service import account_of
from gateway.catalog.service import display_names
from gateway.http.access import Caller
from gateway.http.permissions import MayRead
from gateway.jobs.names import names_of
from gateway.jobs.schemas import JobSummary
from gateway.jobs.service import count_jobs, list_jobs
from gateway.jobs.states import REQUEST_STATES, REQUEST_TONES, TONES, state_of
from gateway.schemas import JobId, job_name
from gateway.web.addresses import Given, query_of
from gateway.web.rendering import fragment, page
from projections.job_detail import RUNNING
from projections.job_requests import newest_requests, requests_by_status
from projections.projection import Row

PAGE_JOBS = 25

router = APIRouter(prefix="/fine-tune")


class Group(StrEnum):
    """A filter of the list."""

    RUNNING = "running"
    PAUSED = "paused"
    REGISTERED = "registered"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def statuses(self) -> list[JobStatus]:
        """Job statuses that the filter includes."""
        return RUNNING if self is Group.RUNNING else [JobStatus(self)]

    @property
    def requests(self) -> list[RequestStatus]:
        """States of requests without a job that the filter includes."""
        return UNSTARTED.get(self, [])


UNSTARTED = {
    Group.RUNNING: [RequestStatus.VALIDATING_FILES],
    Group.FAILED: [RequestStatus.FAILED],
    Group.CANCELLED: [RequestStatus.CANCELLED],
}


@dataclass(frozen=True)
class Asked:
    """The filter and the position in the URL of the page."""

    status: Annotated[Group | None, Given, Query()] = None
    after: Annotated[JobId | None, Query()] = None

    def query(self, **change: object) -> str:
        """Return the query string of the URL with the given parameters changed."""
        after = job_name(self.after) if self.after else None
        return query_of({"status": self.status, "after": after} | change)


AskedOf = Annotated[Asked, Depends()]


@dataclass(frozen=True)
class JobsNow:
    """The jobs of a page, the newest requests without a job, and the numbers by status."""

    jobs: Sequence[JobSummary]
    has_more: bool
    counts: dict[JobStatus, int]
    requests: Sequence[Row]
    request_counts: dict[RequestStatus, int]

    @property
    def running(self) -> bool:
        """True if any job runs or waits for its files, on this page or another."""
        waiting = RequestStatus.VALIDATING_FILES in self.request_counts
        return waiting or any(status in RUNNING for status in self.counts)

    @property
    def total(self) -> int:
        """Number of all jobs, including requests without a job."""
        return sum(self.counts.values()) + sum(self.request_counts.values())

    def count_of(self, group: Group) -> int:
        """Return the number of jobs in a group."""
        requests = sum(self.request_counts.get(status, 0) for status in group.requests)
        return requests + sum(self.counts.get(status, 0) for status in group.statuses)

    @property
    def seen(self) -> str:
        """Hash of this state."""
        return sha256(repr(self).encode()).hexdigest()[:16]


def jobs_now(backend: Backend, caller: Caller, asked: Asked) -> JobsNow:
    """Return the current jobs of a page."""
    statuses = asked.status.statuses if asked.status else None
    found = list_jobs(backend, caller, PAGE_JOBS, after=asked.after, statuses=statuses)
    wanted = asked.status.requests if asked.status else list(chain(*UNSTARTED.values()))
    with backend.pool.connection() as connection:
        requests = (
            [] if asked.after else newest_requests(connection, caller.account_id, wanted, PAGE_JOBS)
        )
        numbers = requests_by_status(connection, caller.account_id)
    return JobsNow(found.data, found.has_more, count_jobs(backend, caller), requests, numbers)


@router.get("")
def show_jobs(request: Request, caller: MayRead, backend: BackendOf, asked: AskedOf) -> Response:
    """Show the caller's jobs, newest first."""
    shown = _shown(backend, jobs_now(backend, caller, asked), asked)
    return page(request, backend, caller, "jobs/list.html", **shown)


@router.get("/now")
def show_now(
    caller: MayRead,
    backend: BackendOf,
    asked: AskedOf,
    seen: Annotated[str, Query()] = "",
    empty: Annotated[bool, Query(description="The page shows no jobs at all.")] = False,
) -> Response:
    """Update the list if it has changed. Otherwise, return 204."""
    now = jobs_now(backend, caller, asked)
    if now.seen == seen:
        return Response(status_code=204)
    if empty:  # the page has no list to update
        return Response(headers={"hx-refresh": "true"})
    account = account_of(backend, caller)
    return fragment("jobs/now.html", account=account, **_shown(backend, now, asked))


def _shown(backend: Backend, now: JobsNow, asked: Asked) -> dict[str, Any]:
    return {
        "now": now,
        "asked": asked,
        "groups": list(Group),
        "names": names_of(backend, now.jobs),
        "places": display_names(backend),
        "states": {job.id: state_of(job) for job in now.jobs},
        "tones": TONES,
        "request_states": REQUEST_STATES,
        "request_tones": REQUEST_TONES,
    }
