"""Authentication by API key or browser session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import HTTPConnection
from starlette.responses import Response

from domain.access.api_key import ApiKey
from domain.access.rights import Rights
from domain.access.role import Role
from domain.billing.account import Account
from domain.core.aggregate import Cause
from domain.core.errors import Invalid, NotFound
from gateway.backend import Backend, BackendOf
from gateway.http.errors import Forbidden, Unauthenticated
from gateway.http.lockout import Lockout
from gateway.http.origin import client_address
from gateway.http.sessions import SAFE_METHODS, SessionOf, check_csrf, csrf_token_shown
from infrastructure.accounts.key_uses import KeyUses
from infrastructure.accounts.sessions import Session
from infrastructure.process import tracing

CHATS_PATH = "/v1/chat/completions"
"""Path of chats. A chat is a POST that changes no data, and has its own rate limits."""

ACCOUNT_HEADER, ACCOUNT_COOKIE = "ecolink-account", "ecolink_account"
"""Names of the header and the cookie with the ID of the account that an auditor reads."""

SCHEME = "API key"
bearer = HTTPBearer(auto_error=False, scheme_name=SCHEME, bearerFormat="eco_...")


@dataclass(frozen=True)
class Caller:
    """The account that a request acts for, and the rights of its API key."""

    account_id: UUID
    holder_id: UUID
    """The account of the key. Only for an auditor it can differ from the account to read."""
    rights: Rights
    key_id: UUID
    request_id: str

    @property
    def role(self) -> Role:
        return self.rights.role

    def cause(self, backend: Backend) -> Cause:
        """Return the cause of the events of this request.

        The actor is the key, whose first event names its account and its rights. The request ID is
        also the command ID. It distinguishes a retry after a lost acknowledgement
        from another request with the same Idempotency-Key, and links an event to the process log.
        """
        return Cause(
            actor=f"key:{self.key_id}",
            command_id=self.request_id,
            now=backend.clock.now(),
            traceparent=tracing.traceparent(),
        )


def caller(
    request: Request,
    backend: BackendOf,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    session: SessionOf,
    csrf_token: Annotated[str | None, Depends(csrf_token_shown)],
) -> Caller:
    """Return the caller that the API key or the browser session identifies.

    Every call checks the key in the event log. Revoking a key takes effect immediately and ends its
    sessions. Raise Unauthenticated without a valid key or session, Forbidden without a valid CSRF
    token, and RateLimited at a rate limit.
    """
    request_id = request.state.request_id
    if credentials is not None:
        known = holder_shown(request, backend, credentials.credentials, request_id)
    elif session is None:
        raise Unauthenticated(
            "The request has no API key. Send one in the header `Authorization: Bearer eco_...`."
        )
    else:
        check_csrf(request, session, csrf_token)
        known = holder_of_session(backend, session, request_id)
        _note_use(request, backend, known)
        request.state.session = session
    known = viewing(request, backend, known)
    request.state.caller = known
    changes = request.method not in SAFE_METHODS and request.url.path != CHATS_PATH
    request.state.limit_headers = backend.quotas.admit(known.holder_id, changes=changes)
    return known


def holder_shown(
    connection: HTTPConnection, backend: Backend, secret: str, request_id: str
) -> Caller:
    """Return the account of a client's key. Wrong keys lead to a lockout of the address."""
    with shown(connection, secret):
        known = holder_of(backend, secret, request_id)
    _note_use(connection, backend, known)
    return known


def _note_use(connection: HTTPConnection, backend: Backend, known: Caller) -> None:
    key_uses: KeyUses = connection.app.state.key_uses
    key_uses.note(known.key_id, backend.clock.now())


@contextmanager
def shown(connection: HTTPConnection, secret: str) -> Generator[None]:
    """Count a wrong secret if the block raises Unauthenticated."""
    lockout: Lockout = connection.app.state.lockout
    address = client_address(connection)
    lockout.require_open(address, secret)
    try:
        yield
    except Unauthenticated:
        lockout.refused(address, secret)
        raise
    lockout.accepted(address, secret)


def holder_of(backend: Backend, secret: str, request_id: str) -> Caller:
    """Return the account of the API key with this secret, or raise Unauthenticated."""
    return _caller(backend.ecolink.authenticate(secret), backend.clock.now(), request_id)


def holder_of_session(backend: Backend, session: Session, request_id: str) -> Caller:
    """Return the caller of a browser session. Raise Unauthenticated if its key has ended."""
    key = backend.ecolink.unrevoked_key(session.key_id)
    return _caller(key, backend.clock.now(), request_id)


def _caller(key: ApiKey | None, now: datetime, request_id: str) -> Caller:
    if key is None:
        raise Unauthenticated(
            "This API key is unknown or was revoked. Ask your operator for a valid key."
        )
    if key.rights.expired(now):
        raise _expired(key.rights)
    return Caller(key.account_id, key.account_id, key.rights, key.id, request_id)


def viewing(connection: HTTPConnection, backend: Backend, known: Caller) -> Caller:
    """Return the caller with the account that an auditor names, in the header or the cookie.

    A cookie with an unknown account is ignored, and deleted by the next page. Raise Forbidden if
    another role sends the header, and Invalid or NotFound if the header has no known account.
    """
    header = connection.headers.get(ACCOUNT_HEADER)
    if known.role is not Role.AUDITOR:
        if header is not None:
            raise Forbidden(
                f"Only an auditor can read another account. Omit the header {ACCOUNT_HEADER}."
            )
        return known
    if header:
        return replace(known, account_id=_account_id(backend, header))
    cookie = connection.cookies.get(ACCOUNT_COOKIE)
    if cookie is None:
        return known
    try:
        return replace(known, account_id=_account_id(backend, cookie))
    except (Invalid, NotFound):  # for example after a backup was restored
        connection.state.stale_account = True
        return known


def _account_id(backend: Backend, named: str) -> UUID:
    try:
        account_id = UUID(named)
    except ValueError:
        raise Invalid(f"{named!r} is no account ID. See GET /api/accounts.") from None
    if backend.log.find(Account, account_id) is None:
        raise NotFound(f"Unknown account {account_id}. See GET /api/accounts.")
    return account_id


def delete_stale_account(request: Request, response: Response) -> None:
    """Delete the cookie of an unknown account in the response of a page."""
    if getattr(request.state, "stale_account", False):
        response.delete_cookie(ACCOUNT_COOKIE)


def _expired(rights: Rights) -> Unauthenticated:
    return Unauthenticated(
        f"This API key expired at {rights.expires_at:%Y-%m-%d %H:%M %Z}. Use another key, or ask "
        "the owner of the account for one."
    )


@asynccontextmanager
async def until_expiry(backend: Backend, caller: Caller) -> AsyncGenerator[None]:
    """Raise Unauthenticated in the block when the caller's key expires."""
    ends = caller.rights.expires_at
    seconds = None if ends is None else (ends - backend.clock.now()).total_seconds()
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError:
        if limit.expired():
            raise _expired(caller.rights) from None
        raise


CallerOf = Annotated[Caller, Depends(caller)]
