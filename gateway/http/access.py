"""Authentication by API key or browser session, and the permissions of roles."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import HTTPConnection

from domain.access.api_key import ApiKey
from domain.access.role import Role
from domain.core.aggregate import Cause
from gateway.backend import Backend, BackendOf
from gateway.http.errors import Forbidden, Unauthenticated
from gateway.http.lockout import Lockout
from gateway.http.origin import client_address
from gateway.http.sessions import SAFE_METHODS, SessionOf, check_csrf, csrf_token_shown
from infrastructure.sessions import Session

CHATS_PATH = "/v1/chat/completions"
"""Path of chats. A chat is a POST that changes no data, and has its own rate limits."""

bearer = HTTPBearer(auto_error=False, scheme_name="API key", bearerFormat="eco_...")


@dataclass(frozen=True)
class Caller:
    """The account for which a request acts."""

    account_id: UUID
    role: Role
    key_id: UUID
    request_id: str

    def cause(self, backend: Backend) -> Cause:
        """Return the cause of the events of this request.

        The request ID is also the command ID. It distinguishes a retry after a lost acknowledgement
        from another request with the same Idempotency-Key, and links an event to the process log.
        """
        return Cause(f"account:{self.account_id}", self.request_id, backend.clock.now())


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
        request.state.session = session
    request.state.caller = known
    changes = request.method not in SAFE_METHODS and request.url.path != CHATS_PATH
    request.state.limit_headers = backend.quotas.admit(known.account_id, changes=changes)
    return known


def holder_shown(
    connection: HTTPConnection, backend: Backend, secret: str, request_id: str
) -> Caller:
    """Return the account of an API key that a client sent.

    A wrong key counts towards a lockout of the client's address. Raise Unauthenticated if the key
    is wrong, and RateLimited if the address is locked out.
    """
    with shown(connection, secret):
        return holder_of(backend, secret, request_id)


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
    """Return the account of the API key with this secret.

    Raise Unauthenticated if there is no valid key.
    """
    return _caller(backend.ecolink.authenticate(secret), request_id)


def holder_of_session(backend: Backend, session: Session, request_id: str) -> Caller:
    """Return the caller of a browser session. Raise Unauthenticated if its key was revoked."""
    return _caller(backend.ecolink.valid_key(session.key_id), request_id)


def _caller(key: ApiKey | None, request_id: str) -> Caller:
    if key is None:
        raise Unauthenticated(
            "This API key is unknown or was revoked. Ask your operator for a valid key."
        )
    return Caller(key.account_id, key.role, key.id, request_id)


CallerOf = Annotated[Caller, Depends(caller)]


def operator(caller: CallerOf) -> Caller:
    """Return the caller. Raise Forbidden unless it is an operator."""
    if caller.role is not Role.OPERATOR:
        raise Forbidden("Only an operator can do this. Use the API key of an operator.")
    return caller


OperatorOf = Annotated[Caller, Depends(operator)]
