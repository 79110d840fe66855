"""The session cookie of a browser, and the CSRF tokens of its commands.

A browser sends the cookie with every request, including forged ones. A command must therefore also
send the token of the session, which only EcoLink's own pages know (OWASP, Cross-Site Request
Forgery Prevention Cheat Sheet, "Synchronizer Token Pattern").
"""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import Depends, Request
from starlette.requests import HTTPConnection
from starlette.responses import Response

from gateway.backend import Backend, BackendOf
from gateway.http.errors import Forbidden
from gateway.http.origin import is_secure
from gateway.http.text_validation import FORM
from infrastructure.accounts import sessions
from infrastructure.accounts.sessions import SESSION_DAYS, Session

COOKIE = "ecolink_session"
CSRF_HEADER, CSRF_FIELD = "x-csrf-token", "csrf_token"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def session_in(connection: HTTPConnection, backend: BackendOf) -> Session | None:
    """Return the session of a request's cookie, or None."""
    token = connection.cookies.get(COOKIE)
    if token is None:
        return None
    with backend.pool.connection() as database:
        return sessions.session_of(database, token)


SessionOf = Annotated[Session | None, Depends(session_in)]


async def csrf_token_shown(request: Request, session: SessionOf) -> str | None:
    """Return a command's CSRF token. Read only a plain form's body, of a signed-in user."""
    if request.method in SAFE_METHODS or session is None:
        return None
    header = request.headers.get(CSRF_HEADER)
    form = request.headers.get("content-type", "").startswith(FORM)
    if header is None and form and not request.state.streamed:
        field = (await request.form()).get(CSRF_FIELD)
        return field if isinstance(field, str) else None
    return header


def check_csrf(request: Request, session: Session, shown: str | None) -> None:
    """Raise Forbidden for a command that does not come from EcoLink's own pages."""
    if request.method in SAFE_METHODS:
        return
    expected = session.csrf_token.encode()
    if shown is None or not hmac.compare_digest(shown.encode(errors="replace"), expected):
        raise Forbidden("This form has expired. Reload the page, then submit it again.")


def keep_session(request: Request, response: Response, token: str) -> None:
    """Set the session cookie in a response."""
    seconds, secure = SESSION_DAYS * 86400, is_secure(request)
    response.set_cookie(COOKIE, token, seconds, secure=secure, httponly=True, samesite="lax")


def renew_session(request: Request, response: Response, backend: Backend) -> None:
    """Renew the token of a session in the response of a page, if the renewal is due."""
    session: Session | None = getattr(request.state, "session", None)
    if session is None or not session.due:
        return
    with backend.pool.connection() as database:
        token = sessions.rotate(database, request.cookies[COOKIE])
    if token is not None:
        keep_session(request, response, token)
