"""Error responses for browsers: an error page, or a notice on the current page."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from urllib.parse import quote, urlsplit

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from gateway.http.errors import STORE_UNREACHABLE, Problem
from gateway.http.sessions import session_in
from gateway.web.rendering import fragment, is_htmx
from infrastructure.accounts.sessions import Session

TITLES: dict[int, str] = {
    HTTPStatus.NOT_FOUND: "Page not found",
    HTTPStatus.SERVICE_UNAVAILABLE: "Temporarily unavailable",
    HTTPStatus.INTERNAL_SERVER_ERROR: "Internal error",
}

SIGN_IN = "/sign-in"
AGAIN_SECONDS = 2


def recognize(request: Request) -> None:
    """Find the session of a request without a route, so that its error page has the layout."""
    if getattr(request.state, "session", None) is None:
        with suppress(*STORE_UNREACHABLE):
            request.state.session = session_in(request, request.app.state.backend)


def answer(request: Request, status: int, problem: Problem, headers: Mapping[str, str]) -> Response:
    """Return a problem's page, or a notice with 200 for a part: browsers log other statuses."""
    if status == HTTPStatus.UNAUTHORIZED:
        return _to_sign_in(request)
    if is_htmx(request):
        return _notice(problem, passing=status == HTTPStatus.SERVICE_UNAVAILABLE)
    response = _page(request, status, problem)
    response.headers.update(dict(headers))
    return response


def _notice(problem: Problem, *, passing: bool) -> Response:
    """Return a notice. Morph a temporary one, so that screen readers do not repeat it."""
    swap = "innerMorph" if passing else "innerHTML"
    place = {"hx-retarget": "#notices", "hx-reswap": swap}
    return fragment("notice.html", headers=place, problem=problem, passing=passing)


def _page(request: Request, status: int, problem: Problem) -> Response:
    """Return an error page in the user's layout. After a GET with 503, it reloads automatically."""
    session: Session | None = getattr(request.state, "session", None)
    passing = status == HTTPStatus.SERVICE_UNAVAILABLE and request.method == "GET"
    response = fragment(
        "error.html",
        status,
        title=TITLES.get(status, "Request failed"),
        problem=problem,
        again=_address(str(request.url)) if passing else None,
        session=session,
        account=None,
        auditing=False,
        may=(),
        csrf_token=session.csrf_token if session else "",
        path=request.url.path,
    )
    if passing:
        response.headers["refresh"] = str(AGAIN_SECONDS)
    return response


def _to_sign_in(request: Request) -> Response:
    if is_htmx(request):
        shown = request.headers.get("hx-current-url", "")
        return Response(headers={"hx-redirect": _sign_in_for(shown)})
    shown = str(request.url) if request.method == "GET" else ""
    return RedirectResponse(_sign_in_for(shown), HTTPStatus.SEE_OTHER)


def _sign_in_for(shown: str) -> str:
    """Return the URL of the sign-in page that returns to the page `shown`."""
    target = _address(shown)
    return SIGN_IN if target in ("", "/") else f"{SIGN_IN}?next={quote(target)}"


def _address(url: str) -> str:
    """Return the path and query of a URL, without the host that the client sent."""
    try:
        _, _, path, query, _ = urlsplit(url)
    except ValueError:
        return ""
    return f"{path}?{query}" if query else path
