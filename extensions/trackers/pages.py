"""The page of trackers: the connections of the account."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import Response
from pydantic import ValidationError

from domain.core.errors import Invalid
from domain.core.target import MAX_URL
from domain.training.integrations import REMOTE, Tracker
from extensions.trackers import service
from extensions.trackers.schemas import WANDB_URL, ConnectionForm
from gateway.backend import Backend, BackendOf
from gateway.http.access import Caller
from gateway.http.permissions import MayManageKeys, MayRead, MayTrain
from gateway.jobs.service import own_job
from gateway.schemas import JobId
from gateway.web.rendering import fragment, is_htmx, page

ADDRESS = "/trackers"

PROBLEMS = {
    "url": "Enter a URL that begins with https://.",
    "username": "The user name contains a space or a colon. Correct it.",
    "secret": "The password, token or API key contains a space or a character outside ASCII, or is "
    "longer than 4,000 characters. Correct it.",
}

router = APIRouter()


@dataclass(frozen=True)
class Entered:
    """The fields of the form of a connection."""

    url: Annotated[str, Form(max_length=MAX_URL)] = ""
    username: Annotated[str, Form(max_length=200)] = ""
    secret: Annotated[str, Form(max_length=5_000)] = ""

    @property
    def form(self) -> ConnectionForm:
        """The form of the API. Raise Invalid."""
        given = {name: value.strip() or None for name, value in vars(self).items()}
        try:
            return ConnectionForm.model_validate(given)
        except ValidationError as error:
            field = str(error.errors()[0]["loc"][0])
            raise Invalid(PROBLEMS[field], field=field) from None


EnteredOf = Annotated[Entered, Depends()]


@router.get(ADDRESS)
def show_trackers(request: Request, caller: MayRead, backend: BackendOf) -> Response:
    """Show the connections of the account. htmx gets only the connections."""
    shown = _shown(backend, caller)
    if is_htmx(request):
        return fragment("trackers/connections.html", **shown)
    return page(request, backend, caller, "trackers/page.html", **shown)


@router.post(f"{ADDRESS}/{{tracker}}")
def connect(
    tracker: Tracker, caller: MayManageKeys, backend: BackendOf, entered: EnteredOf
) -> Response:
    """Store a connection with its credentials, and test it."""
    service.connect(backend, caller, tracker, entered.form)
    service.request_test(backend, caller, tracker)
    return fragment("trackers/connections.html", **_shown(backend, caller))


@router.post(f"{ADDRESS}/{{tracker}}/test")
def request_test(tracker: Tracker, caller: MayManageKeys, backend: BackendOf) -> Response:
    """Test a connection. The page shows the result."""
    service.request_test(backend, caller, tracker)
    return fragment("trackers/connections.html", **_shown(backend, caller))


@router.post(f"{ADDRESS}/{{tracker}}/disconnect")
def disconnect(tracker: Tracker, caller: MayManageKeys, backend: BackendOf) -> Response:
    """Delete a connection with its credentials."""
    service.disconnect(backend, caller, tracker)
    return fragment("trackers/connections.html", **_shown(backend, caller))


@router.get("/fine-tune/ftjob-{job_id}/trackers")
def show_runs(job_id: JobId, caller: MayRead, backend: BackendOf) -> Response:
    """Show the trackers of a job, as a part of its page."""
    own_job(backend, caller, job_id)
    return fragment("trackers/runs.html", **runs_shown(backend, caller, job_id))


@router.post("/fine-tune/ftjob-{job_id}/trackers/{tracker}/retry")
def retry_run(job_id: JobId, tracker: Tracker, caller: MayTrain, backend: BackendOf) -> Response:
    """Send the metrics of a job to a failing tracker immediately."""
    own_job(backend, caller, job_id)
    service.retry(backend, caller, job_id, tracker)
    return fragment("trackers/runs.html", **runs_shown(backend, caller, job_id))


def runs_shown(backend: Backend, caller: Caller, job_id: JobId) -> dict[str, Any]:
    """Return the variables of the trackers of a job."""
    return {"runs": service.runs_of_job(backend, caller, job_id), "job_id": job_id}


def _shown(backend: Backend, caller: Caller) -> dict[str, Any]:
    found = {each.tracker: each for each in service.connections(backend, caller)}
    return {"trackers": REMOTE, "connections": found, "address": ADDRESS, "wandb_url": WANDB_URL}
