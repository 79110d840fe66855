"""Sign-in with an API key or a one-time link, and sign-out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import RedirectResponse, Response

from domain.access.api_key import ApiKey, secret_sha256
from domain.core.identity import api_key_id
from gateway.backend import Backend, BackendOf
from gateway.http.access import ACCOUNT_COOKIE, shown
from gateway.http.errors import Forbidden, Unauthenticated
from gateway.http.origin import same_origin
from gateway.http.permissions import PUBLIC, AnyCaller
from gateway.http.sessions import COOKIE, SessionOf, keep_session
from gateway.web.errors import SIGN_IN
from gateway.web.rendering import fragment
from infrastructure.accounts import sessions
from infrastructure.accounts.profiles import name_of_account
from infrastructure.postgres.store import Connection

FIRST_PAGE = "/fine-tune"

router = APIRouter(include_in_schema=False)

NextPage = Annotated[str, Query(alias="next", max_length=2000)]


@router.get("/")
def show_first(caller: AnyCaller) -> Response:
    """Redirect a signed-in user to their jobs."""
    return RedirectResponse(FIRST_PAGE, HTTPStatus.SEE_OTHER)


@router.get(SIGN_IN, dependencies=[PUBLIC])
def show_sign_in(
    request: Request, backend: BackendOf, session: SessionOf, next_page: NextPage = FIRST_PAGE
) -> Response:
    """Show the sign-in page. If the browser's session has ended, show a notice."""
    valid = session is not None and _valid(backend, session.key_id) is not None
    ended = COOKIE in request.cookies and not valid
    return fragment("sign_in.html", next_page=_own(next_page), problem=None, ended=ended)


@router.post(SIGN_IN, dependencies=[PUBLIC])
def sign_in(
    request: Request,
    backend: BackendOf,
    api_key: Annotated[str, Form(max_length=200)] = "",
    next_page: Annotated[str, Form(max_length=2000)] = FIRST_PAGE,
) -> Response:
    """Start a session with an API key."""
    _refuse_others(request)
    secret = api_key.strip()
    key_id = api_key_id(secret_sha256(secret))
    key = _shown_key(request, secret, lambda: _valid(backend, key_id))
    if key is None:
        problem = (
            "This API key is unknown, was revoked or has expired. Check it, or ask your operator "
            "for another key."
        )
        return fragment("sign_in.html", next_page=_own(next_page), problem=problem, ended=False)
    return _begun(request, backend, key.id, _own(next_page))


@router.get(SIGN_IN + "/{token}", dependencies=[PUBLIC])
def show_link(token: str, request: Request, backend: BackendOf) -> Response:
    """Show the account of a one-time link. Link previews do not use up the link."""
    key = _key_of_link(request, backend, token, sessions.key_of_sign_in_link)
    if key is None:
        return _used_up()
    with backend.pool.connection() as connection:
        name = name_of_account(connection, key.account_id)
    return fragment("sign_in_link.html", name=name or key.account_id)


@router.post(SIGN_IN + "/{token}", dependencies=[PUBLIC])
def use_link(token: str, request: Request, backend: BackendOf) -> Response:
    """Start a session with a one-time link."""
    _refuse_others(request)
    key = _key_of_link(request, backend, token, sessions.use_sign_in_link)
    return _used_up() if key is None else _begun(request, backend, key.id, FIRST_PAGE)


@router.post("/sign-out")
def sign_out(caller: AnyCaller, request: Request, backend: BackendOf) -> Response:
    """End the session of this browser."""
    with backend.pool.connection() as connection:
        sessions.end_session(connection, request.cookies.get(COOKIE, ""))
    response = RedirectResponse(SIGN_IN, HTTPStatus.SEE_OTHER)
    response.delete_cookie(COOKIE)
    response.delete_cookie(ACCOUNT_COOKIE)
    return response


def signed_out() -> Response:
    """Return the response to an htmx request that ended its own session."""
    response = Response(headers={"hx-redirect": SIGN_IN})
    response.delete_cookie(COOKIE)
    return response


def _refuse_others(request: Request) -> None:
    """Raise Forbidden for a form from another site, which could sign in a user unnoticed."""
    if not same_origin(request):
        raise Forbidden("The form came from another site. Sign in on this site.")


def _shown_key(request: Request, secret: str, key_of: Callable[[], ApiKey | None]) -> ApiKey | None:
    """Return the key of a secret, or None. Wrong secrets count towards a lockout (RateLimited)."""
    with suppress(Unauthenticated), shown(request, secret):
        if (key := key_of()) is None:
            raise Unauthenticated("This key or link is unknown. Check it.")
        return key
    return None


def _key_of_link(
    request: Request, backend: Backend, token: str, key_of: Callable[[Connection, str], UUID | None]
) -> ApiKey | None:
    """Return the key of a one-time link. A wrong link counts as a wrong key."""

    def find() -> ApiKey | None:
        with backend.pool.connection() as connection:
            return _valid(backend, key_of(connection, token))

    return _shown_key(request, token, find)


def _valid(backend: Backend, key_id: UUID | None) -> ApiKey | None:
    return None if key_id is None else backend.ecolink.valid_key(key_id, backend.clock.now())


def _used_up() -> Response:
    problem = "This link was used or has expired. Run `ecolink sign-in` for a new one."
    return fragment("sign_in.html", next_page=FIRST_PAGE, problem=problem, ended=False)


def _begun(request: Request, backend: Backend, key_id: UUID, next_page: str) -> Response:
    with backend.pool.connection() as connection:
        sessions.end_session(connection, request.cookies.get(COOKIE, ""))
        token = sessions.begin_session(connection, key_id)
    response = RedirectResponse(next_page, HTTPStatus.SEE_OTHER)
    keep_session(request, response, token)
    response.delete_cookie(ACCOUNT_COOKIE)  # an account that the previous user read
    return response


def _own(next_page: str) -> str:
    """Return the page if it belongs to this site, otherwise the first page."""
    ours = next_page.startswith("/") and not next_page.startswith(("//", "/\\"))
    return next_page if ours else FIRST_PAGE
