"""Use cases and queries of trackers."""

from __future__ import annotations

from urllib.parse import urlsplit
from uuid import UUID

from domain.access.scope import Scope
from domain.core.errors import Invalid, NotFound, WrongState
from domain.training.integrations import REMOTE, Tracker
from extensions.trackers import connections as tracker_connections
from extensions.trackers import runs as tracked_runs
from extensions.trackers.connections import Server, TrackerConnection
from extensions.trackers.runs import RunStatus, TrackedRun
from extensions.trackers.schemas import (
    WANDB_URL,
    ConnectionForm,
    ConnectionResponse,
    ConnectionStatus,
    RunResponse,
)
from extensions.trackers.settings import TrackerSettings
from gateway.backend import Backend
from gateway.http.access import Caller
from infrastructure.postgres.store import Connection
from infrastructure.process.role import settings_of

HIDDEN_ERROR = "The tracker accepts no metrics. The scope `keys` is required to read its error."

CONNECT = "on the page Trackers, with `ecolink trackers connect`, or with PUT /api/trackers"


def connections(backend: Backend, caller: Caller) -> list[ConnectionResponse]:
    """Return the connections of the account. They include the operator's MLflow server."""
    with backend.pool.connection() as connection:
        found = tracker_connections.connections_of(connection, caller.account_id)
    answers = [_answer(caller, each) for each in found.values()]
    if Tracker.MLFLOW not in found and settings_of(TrackerSettings).mlflow_url is not None:
        answers.append(_of_operator())
    return sorted(answers, key=lambda each: REMOTE.index(each.tracker))


def connection_of(backend: Backend, caller: Caller, tracker: Tracker) -> ConnectionResponse:
    """Return one connection. Raise NotFound."""
    for each in connections(backend, caller):
        if each.tracker is tracker:
            return each
    raise _unknown(tracker)


def connect(
    backend: Backend, caller: Caller, tracker: Tracker, form: ConnectionForm
) -> ConnectionResponse:
    """Store or replace a connection with its credentials. Raise Invalid.

    With another URL, the runs of unfinished jobs start again at the new server.
    """
    server = _server(tracker, form)
    backend.settings.webhook_policy.require_url(server.url)
    if urlsplit(server.url).query:
        raise Invalid("The URL contains a query (?). Remove it.", field="url")
    now = backend.clock.now()
    with backend.pool.connection() as connection, connection.transaction():
        known = tracker_connections.connections_of(connection, caller.account_id).get(tracker)
        tracker_connections.set_connection(connection, caller.account_id, tracker, server, now)
        if known is None or known.url != server.url:
            tracked_runs.restart_runs(connection, caller.account_id, tracker, now)
        tracked_runs.retry_runs(connection, caller.account_id, tracker, now)
    return connection_of(backend, caller, tracker)


def disconnect(backend: Backend, caller: Caller, tracker: Tracker) -> None:
    """Delete a connection with its credentials, and stop its unfinished runs. Raise NotFound."""
    now = backend.clock.now()
    with backend.pool.connection() as connection, connection.transaction():
        if not tracker_connections.delete_connection(connection, caller.account_id, tracker):
            raise _unknown(tracker)
        error = f"The connection to {tracker.product} was deleted."
        tracked_runs.stop_runs(connection, caller.account_id, tracker, error, now)


def request_test(backend: Backend, caller: Caller, tracker: Tracker) -> ConnectionResponse:
    """Ask for a test of a connection. Raise NotFound or RateLimited."""
    with backend.pool.connection() as connection:
        _own(connection, caller, tracker)
        backend.quotas.rates.take("tracker_tests", caller.account_id)
        now = backend.clock.now()
        tracker_connections.request_test(connection, caller.account_id, tracker, now)
    return connection_of(backend, caller, tracker)


def runs_of_job(backend: Backend, caller: Caller, job_id: UUID) -> list[RunResponse]:
    """Return the runs of a job, which must be the caller's."""
    with backend.pool.connection() as connection:
        found = tracked_runs.runs_of(connection, [job_id]).get(job_id, [])
    return [_shown(caller, each) for each in found]


def retry(backend: Backend, caller: Caller, job_id: UUID, tracker: Tracker) -> RunResponse:
    """Send to a failing or stopped run immediately. Raise NotFound or WrongState."""
    with backend.pool.connection() as connection:
        run = tracked_runs.run_of(connection, job_id, tracker)
        if run is None:
            raise NotFound(
                f"The job has no run in {tracker.product}. `ecolink jobs trackers` lists its runs."
            )
        if run.status in (RunStatus.FINISHED, RunStatus.FILES):
            raise WrongState(f"The run in {tracker.product} is {run.status}. It needs no retry.")
        tracked_runs.retry_run(connection, job_id, tracker, backend.clock.now())
        changed = tracked_runs.run_of(connection, job_id, tracker)
    assert changed is not None
    return _shown(caller, changed)


def _server(tracker: Tracker, form: ConnectionForm) -> Server:
    if tracker is Tracker.TENSORBOARD:
        raise Invalid(
            "TensorBoard needs no connection. Download the files of a job with `ecolink jobs "
            "tensorboard`.",
            field="tracker",
        )
    if tracker is Tracker.WANDB:
        if form.username is not None:
            raise Invalid("Weights & Biases has no user name. Remove it.", field="username")
        if form.secret is None:
            raise Invalid("Enter the API key of Weights & Biases.", field="secret")
        # The user name of all API keys.
        return Server(form.url or WANDB_URL, "api", form.secret)
    if form.url is None:
        raise Invalid("Enter the tracking URI, which begins with https://.", field="url")
    if form.username is not None and form.secret is None:
        raise Invalid("The user name has no password. Enter both, or none.", field="secret")
    return Server(form.url, form.username, form.secret)


def _own(connection: Connection, caller: Caller, tracker: Tracker) -> TrackerConnection:
    found = tracker_connections.connections_of(connection, caller.account_id).get(tracker)
    if found is None:
        raise _unknown(tracker)
    return found


def _unknown(tracker: Tracker) -> NotFound:
    return NotFound(f"Your account has no connection to {tracker.product}. Set it up {CONNECT}.")


def _answer(caller: Caller, found: TrackerConnection) -> ConnectionResponse:
    manages = _manages(caller)
    if found.test_requested_at is not None:
        status = ConnectionStatus.TESTING
    elif found.tested_at is None:
        status = ConnectionStatus.UNTESTED
    else:
        status = ConnectionStatus.FAILING if found.test_error else ConnectionStatus.WORKING
    shown = found.username if found.tracker is Tracker.MLFLOW else None
    return ConnectionResponse(
        tracker=found.tracker,
        url=found.url if manages else _origin(found.url),
        username=shown if manages else None,
        has_secret=found.has_secret,
        of_operator=False,
        status=status,
        error=found.test_error if manages else None,
        tested_at=found.tested_at,
        created_at=found.created_at,
    )


def _manages(caller: Caller) -> bool:
    """Return True if a caller may see URLs and errors, which may contain a token of the server."""
    return Scope.KEYS in caller.rights.scopes


def _shown(caller: Caller, run: TrackedRun) -> RunResponse:
    answer = RunResponse.of(run)
    if _manages(caller):
        return answer
    error = None if run.error is None else HIDDEN_ERROR
    return answer.model_copy(update={"url": None, "error": error})


def _of_operator() -> ConnectionResponse:
    return ConnectionResponse(
        tracker=Tracker.MLFLOW,
        url=None,
        username=None,
        has_secret=False,
        of_operator=True,
        status=ConnectionStatus.UNTESTED,
        error=None,
        tested_at=None,
        created_at=None,
    )


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/…"
