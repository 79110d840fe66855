"""Routes of trackers under /api."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from domain.training.integrations import Tracker
from extensions.trackers import event_file as tensorboard
from extensions.trackers import service
from extensions.trackers.schemas import ConnectionForm, ConnectionResponse, RunResponse
from gateway.backend import BackendOf
from gateway.http.errors import refusals
from gateway.http.operations import Operation
from gateway.http.permissions import MayManageKeys, MayRead, MayTrain
from gateway.jobs.service import own_job
from gateway.schemas import JobId, Listed, job_name

ZIP = "application/zip"

router = APIRouter(tags=["trackers"], route_class=Operation)


@router.get("/trackers")
def list_tracker_connections(caller: MayRead, backend: BackendOf) -> Listed[ConnectionResponse]:
    """List the connections of your account to MLflow and Weights & Biases."""
    return Listed(data=service.connections(backend, caller))


@router.get("/trackers/{tracker}", responses=refusals(404))
def show_tracker_connection(
    tracker: Tracker, caller: MayRead, backend: BackendOf
) -> ConnectionResponse:
    """Show a connection to a tracker."""
    return service.connection_of(backend, caller, tracker)


@router.put("/trackers/{tracker}", responses=refusals(404))
def connect_tracker(
    tracker: Tracker, form: ConnectionForm, caller: MayManageKeys, backend: BackendOf
) -> ConnectionResponse:
    """Connect your account to a tracker, or replace the connection with its credentials.

    EcoLink connects only to public addresses, unless the operator allows others. If the URL
    changes, the runs of unfinished jobs start again at the new server.
    """
    return service.connect(backend, caller, tracker, form)


@router.delete("/trackers/{tracker}", status_code=204, responses=refusals(404))
def disconnect_tracker(tracker: Tracker, caller: MayManageKeys, backend: BackendOf) -> None:
    """Delete a connection with its credentials, and stop the runs of unfinished jobs.

    The runs in the tracker stay as they are.
    """
    service.disconnect(backend, caller, tracker)


@router.post("/trackers/{tracker}/test", status_code=202, responses=refusals(404))
def test_tracker_connection(
    tracker: Tracker, caller: MayManageKeys, backend: BackendOf
) -> ConnectionResponse:
    """Test a connection, once. Show the connection for the result."""
    return service.request_test(backend, caller, tracker)


@router.get("/jobs/{job_id}/trackers", responses=refusals(404))
def list_job_runs(job_id: JobId, caller: MayRead, backend: BackendOf) -> Listed[RunResponse]:
    """List the trackers of a job, with the last step that each has, and the last error."""
    own_job(backend, caller, job_id)
    return Listed(data=service.runs_of_job(backend, caller, job_id))


@router.get(
    "/jobs/{job_id}/tensorboard",
    response_class=Response,
    responses={200: {"content": {ZIP: {}}, "description": "A zip file."}, **refusals(404)},
)
def download_tensorboard(job_id: JobId, caller: MayRead, backend: BackendOf) -> Response:
    """Download the metrics of a job as an event file of TensorBoard, in a zip file.

    Every job has it, from its first step on. Of a repeated step, it has the last values.
    """
    job = own_job(backend, caller, job_id)
    with backend.pool.connection() as connection:
        content = tensorboard.archive(connection, job_id, job["approved_at"])
    name = f"{job_name(job_id)}-tensorboard.zip"
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(content, headers=headers, media_type=ZIP)


@router.post(
    "/jobs/{job_id}/trackers/{tracker}/retry", status_code=202, responses=refusals(404, 409)
)
def retry_job_run(
    job_id: JobId, tracker: Tracker, caller: MayTrain, backend: BackendOf
) -> RunResponse:
    """Send the metrics of a job to a failing tracker immediately, also if EcoLink has given up."""
    own_job(backend, caller, job_id)
    return service.retry(backend, caller, job_id, tracker)
