"""Pages of verifications: the form with the last runs, and each run with its result."""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response

from domain.core.errors import NotFound
from gateway.audit.verification.form import (
    EMPTY,
    LONGEST_POSITION,
    Checked,
    Entered,
    EnteredOf,
    checked,
    published_key,
)
from gateway.audit.verification.process import AlreadyRunning, VerificationsOf
from gateway.audit.verification.report import read_report
from gateway.backend import Backend, BackendOf
from gateway.http.access import Caller
from gateway.http.permissions import MayReadAll
from gateway.web.rendering import PRIVATE, fragment, is_htmx, page
from infrastructure.accounts.profiles import name_of_account
from infrastructure.postgres.store import Connection
from infrastructure.seals.verifications import (
    KEPT_RUNS,
    Options,
    Stage,
    Verification,
    is_running,
    report_of,
    request_stop,
    verification,
    verifications,
)

PATH = "/audit/verification"
LISTED_DIFFERENCES = 50
"""Differences of each kind of comparison that the page lists. The report has all of them."""

KEPT_HEAD_FILE = "kept-head.txt"

router = APIRouter(prefix=PATH)


@router.get("")
def show_verifications(
    request: Request,
    caller: MayReadAll,
    backend: BackendOf,
    since: Annotated[str, Query(max_length=LONGEST_POSITION)] = "",
) -> Response:
    """Show the form that starts a verification, or the running one, and the last runs.

    `since` fills the field for the start.
    """
    return _all_runs(request, caller, backend, replace(EMPTY, since=since), Checked())


@router.post("")
async def start_verification(
    request: Request,
    caller: MayReadAll,
    backend: BackendOf,
    entered: EnteredOf,
    starter: VerificationsOf,
) -> Response:
    """Start a verification, and go to its page. It changes nothing, so the scope read is enough.

    Invalid fields are marked. While another one runs, the page shows it, with status 409.
    """
    found = await run_in_threadpool(_checked, backend, entered)
    refused: AlreadyRunning | None = None
    try:
        if found is None:
            raise AlreadyRunning
        if not found.problems:
            id = await starter.start(backend.settings, caller.holder_id, found.options)
            return RedirectResponse(f"{PATH}/{id}", HTTPStatus.SEE_OTHER)
    except AlreadyRunning as error:
        refused = error
    answer = await run_in_threadpool(
        _all_runs, request, caller, backend, entered, found or Checked(), refused
    )
    if refused is not None:
        answer.status_code = HTTPStatus.CONFLICT
    return answer


def _checked(backend: Backend, entered: Entered) -> Checked | None:
    """Read the form. Return None if a verification runs."""
    with backend.pool.connection() as connection:
        running = is_running(connection)
    return None if running else checked(entered, backend)


def _all_runs(
    request: Request,
    caller: Caller,
    backend: Backend,
    entered: Entered,
    found: Checked,
    refused: AlreadyRunning | None = None,
) -> Response:
    with backend.pool.connection() as connection:
        runs = verifications(connection)
        names = _names(connection, runs)
    key = published_key(backend)
    shown: dict[str, Any] = {
        "address": PATH,
        "runs": runs,
        "names": names,
        "running": next((each for each in runs if each.is_running), None),
        "entered": entered,
        "problems": found.problems,
        "refused": refused and refused.message,
        "published_key": key,
        "command": command(Options(), str(key)) if key else None,
        "kept_runs": KEPT_RUNS,
        "stages_of": stages_of,
    }
    if is_htmx(request):
        token = _csrf_token(request)
        return fragment("audit/verification/runs.html", csrf_token=token, **shown)
    return page(request, backend, caller, "audit/verification/all.html", **shown)


@router.get("/{id}")
def show_verification(
    id: UUID, request: Request, caller: MayReadAll, backend: BackendOf
) -> Response:
    """Show the progress or the result of a verification. Raise NotFound."""
    with backend.pool.connection() as connection:
        run = _run(connection, id)
        names = _names(connection, [run])
        text = report_of(connection, id)
    report = None if text is None else read_report(text)
    key = report.public_key if report else run.options.public_key
    if key is None and (published := published_key(backend)):
        key = str(published)
    shown: dict[str, Any] = {
        "address": f"{PATH}/{id}",
        "run": run,
        "names": names,
        "report": report,
        "command": command(run.options, key) if key else None,
        "listed": LISTED_DIFFERENCES,
        "stages_of": stages_of,
    }
    if is_htmx(request):
        token = _csrf_token(request)
        return fragment("audit/verification/run.html", csrf_token=token, **shown)
    return page(request, backend, caller, "audit/verification/one.html", **shown)


@router.post("/{id}/stop")
def stop_verification(id: UUID, caller: MayReadAll, backend: BackendOf) -> Response:
    """Stop a running verification, and go to its page. Raise NotFound.

    Its report shows the result so far. A verification that has ended stays as it is.
    """
    with backend.pool.connection() as connection:
        _run(connection, id)
        request_stop(connection, id)
    return RedirectResponse(f"{PATH}/{id}", HTTPStatus.SEE_OTHER)


@router.get("/{id}/report.json")
def download_report(id: UUID, caller: MayReadAll, backend: BackendOf) -> Response:
    """Download the report of a verification. Raise NotFound if there is none."""
    with backend.pool.connection() as connection:
        run = _run(connection, id)
        text = report_of(connection, id)
    if text is None:
        raise NotFound(f"The verification {id} has no report. See {PATH}/{id}.")
    name = f"verification-{run.requested_at:%Y-%m-%dT%H%M%SZ}.json"
    headers = PRIVATE | {"content-disposition": f'attachment; filename="{name}"'}
    return Response(text, headers=headers, media_type="application/json")


def command(options: Options, public_key: str) -> str:
    """Return the command that makes the same verification on another machine."""
    parts = [f"ecolink audit verify --public-key {public_key}"]
    if options.kept_head is not None:
        parts.append(f"--kept-head {KEPT_HEAD_FILE}")
    if options.since:
        parts.append(f"--since {options.since}")
    if not options.replay:
        parts.append("--log-only")
    if options.artifacts:
        parts.append("--artifacts")
    return " \\\n  ".join(parts)


def stages_of(options: Options) -> list[Stage]:
    """Return the stages of a verification, in order."""
    chosen = {Stage.REPLAY: options.replay, Stage.ARTIFACTS: options.artifacts}
    return [each for each in Stage if chosen.get(each, True)]


def _run(connection: Connection, id: UUID) -> Verification:
    run = verification(connection, id)
    if run is None:
        raise NotFound(f"Unknown verification {id}. EcoLink keeps the last {KEPT_RUNS}.")
    return run


def _csrf_token(request: Request) -> str:
    session = getattr(request.state, "session", None)
    return session.csrf_token if session else ""


def _names(connection: Connection, runs: list[Verification]) -> dict[UUID, str]:
    """Return the names of those who started the runs. A nameless account has its ID."""
    accounts = {each.requested_by for each in runs}
    return {each: name_of_account(connection, each) or str(each) for each in accounts}
