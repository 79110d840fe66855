"""Jobs that /v1 created before their files were ready, and that have not started."""

from __future__ import annotations

from uuid import UUID

from domain.core.errors import NotFound
from domain.jobs.job_request import JobRequest, Refusal, RequestStatus
from gateway.backend import Backend
from gateway.datasets.service import rejection_summary
from gateway.http.access import Caller
from gateway.jobs.requests import FileRejected, files_of
from gateway.schemas import job_name
from projections import datasets as dataset_rows


class NotStarted(NotFound):
    """The job of this request has not started. `reason` is the error of a refused one."""

    def __init__(self, request: JobRequest, reason: str | None) -> None:
        self.request, self.reason = request, reason
        states = {
            RequestStatus.FAILED: f"failed before its approval: {reason}",
            RequestStatus.CANCELLED: "was cancelled before its approval.",
        }
        state = states.get(request.status, "waits until EcoLink has validated its files.")
        super().__init__(f"The job {job_name(request.job_id)} {state}")


def require_started(backend: Backend, caller: Caller, job_id: UUID) -> None:
    """Raise NotStarted if the caller requested this job and it was not approved."""
    if (request := backend.launching.requested(caller.account_id, job_id)) is None:
        return
    refusal = request.refusal
    reason = refusal and refusal_message(backend, caller, request, refusal)
    raise NotStarted(request, reason)


def refusal_message(backend: Backend, caller: Caller, request: JobRequest, refusal: Refusal) -> str:
    """Return the message of a refusal, with the first errors of a rejected file."""
    if refusal.code != FileRejected.code or refusal.field is None:
        return refusal.message
    dataset_id = files_of(request.choices)[refusal.field]
    return explained(backend, caller, refusal.message, dataset_id)


def explained(backend: Backend, caller: Caller, sentence: str, dataset_id: UUID) -> str:
    """Add the first errors of a rejected file to a message, if its report still exists."""
    with backend.pool.connection() as connection:
        row = dataset_rows.dataset(connection, caller.account_id, dataset_id)
    if row is None or row["report_ref"] is None:
        return sentence
    why = rejection_summary(backend, caller, row["report_ref"])
    return f"{sentence}: {why}" if why else sentence
