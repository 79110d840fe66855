"""How a browser is told of a problem: as a page, or as a notice on the page that is shown."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from urllib.parse import quote, urlsplit

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from gateway.http.errors import STORE_UNREACHABLE, Problem
from gateway.http.sessions import session_in
from gateway.web.rendering import fragment, is_htmx, outside
from infrastructure.sessions import Session

TITLES: dict[int, str] = {
    HTTPStatus.NOT_FOUND: "There is no such page",
    HTTPStatus.SERVICE_UNAVAILABLE: "Not available for a moment",
    HTTPStatus.INTERNAL_SERVER_ERROR: "Something failed",
}

SIGN_IN = "/sign-in"
AGAIN_SECONDS = 2


def recognise(request: Request) -> None:
    """Note the browser's session on a request that no route took, so that its page has a frame."""
    if getattr(request.state, "session", None) is None:
        with suppress(*STORE_UNREACHABLE):
            request.state.session = session_in(request, request.app.state.backend)


def answer(request: Request, status: int, problem: Problem, headers: Mapping[str, str]) -> Response:
    """The response for a problem.

    A part of a page that cannot be had is a notice with status 200: it is what the page shows, and
    a browser writes any other status into its console as an error of ours.
    """
    if status == HTTPStatus.UNAUTHORIZED:
        return _to_sign_in(request)
    if is_htmx(request):
        return _notice(problem, passing=status == HTTPStatus.SERVICE_UNAVAILABLE)
    response = _page(request, status, problem)
    response.headers.update(dict(headers))
    return response


def _notice(problem: Problem, *, passing: bool) -> Response:
    """A notice; what will pass is morphed into itself, so that it is not said with each poll."""
    swap = "innerMorph" if passing else "innerHTML"
    place = {"hx-retarget": "#notices", "hx-reswap": swap}
    return fragment("notice.html", headers=place, problem=problem, passing=passing)


def _page(request: Request, status: int, problem: Problem) -> Response:
    """A page, in the frame of who is signed in; what will pass is asked for again by itself."""
    session: Session | None = getattr(request.state, "session", None)
    passing = status == HTTPStatus.SERVICE_UNAVAILABLE and request.method == "GET"
    response = outside(
        "error.html",
        status,
        title=TITLES.get(status, "That did not work"),
        problem=problem,
        again=_address(str(request.url)) if passing else None,
        session=session,
        account=None,
        csrf_token=session.csrf_token if session else "",
        path=request.url.path,
    )
    if passing:
        response.headers["refresh"] = str(AGAIN_SECONDS)
    return response


def _to_sign_in(request: Request) -> Response:
    """To the page that asks for a key, and from there back to the one that is shown."""
    if is_htmx(request):
        shown = request.headers.get("hx-current-url", "")
        return Response(headers={"hx-redirect": _sign_in_for(shown)})
    shown = str(request.url) if request.method == "GET" else ""
    return RedirectResponse(_sign_in_for(shown), HTTPStatus.SEE_OTHER)


def _sign_in_for(shown: str) -> str:
    """The page that asks for a key, and leads from there to what is shown."""
    target = _address(shown)
    return SIGN_IN if target in ("", "/") else f"{SIGN_IN}?next={quote(target)}"


def _address(url: str) -> str:
    """Path and query alone: the host is ours, whatever a client says."""
    try:
        _, _, path, query, _ = urlsplit(url)
    except ValueError:
        return ""
    return f"{path}?{query}" if query else path
