"""Who calls: the account behind an API key or a browser's session, and what its role allows."""

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
"""Chats change nothing, though they are posted; they have limits of their own."""

bearer = HTTPBearer(auto_error=False, scheme_name="API key", bearerFormat="eco_...")


@dataclass(frozen=True)
class Caller:
    """The account that a request acts for."""

    account_id: UUID
    role: Role
    key_id: UUID
    request_id: str

    def cause(self, backend: Backend) -> Cause:
        """Why the events of this request happen.

        The request's id is the command's: it tells a lost acknowledgement of this very request
        from another request with the same Idempotency-Key, and leads from an event to the log.
        """
        return Cause(
            actor=f"account:{self.account_id}",
            command_id=self.request_id,
            now=backend.clock.now(),
        )


def caller(
    request: Request,
    backend: BackendOf,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    session: SessionOf,
    csrf_token: Annotated[str | None, Depends(csrf_token_shown)],
) -> Caller:
    """The holder of the API key, or who is signed in with the browser that asks.

    Every call reads the log, so that a revoked key ends at once, and its sessions with it.
    """
    request_id = request.state.request_id
    if credentials is not None:
        known = holder_shown(request, backend, credentials.credentials, request_id)
    else:
        if session is None:
            raise Unauthenticated("send an API key in the header `Authorization: Bearer eco_...`")
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
    """The holder of the API key that a client shows; raises Unauthenticated and RateLimited.

    Wrong keys are counted, and lock the client's address out for a while.
    """
    with shown(connection, secret):
        return holder_of(backend, secret, request_id)


@contextmanager
def shown(connection: HTTPConnection, secret: str) -> Generator[None]:
    """Check a secret inside: one that raises Unauthenticated is counted as refused."""
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
    """The holder of the API key with this secret; raises Unauthenticated."""
    return _caller(backend.ecolink.authenticate(secret), request_id)


def holder_of_session(backend: Backend, session: Session, request_id: str) -> Caller:
    """Who signed in with a key; raises Unauthenticated."""
    return _caller(backend.ecolink.valid_key(session.key_id), request_id)


def _caller(key: ApiKey | None, request_id: str) -> Caller:
    if key is None:
        raise Unauthenticated("this API key is unknown or was revoked")
    return Caller(key.account_id, key.role, key.id, request_id)


CallerOf = Annotated[Caller, Depends(caller)]


def operator(caller: CallerOf) -> Caller:
    """A caller who runs the platform."""
    if caller.role is not Role.OPERATOR:
        raise Forbidden("only an operator may do this")
    return caller


OperatorOf = Annotated[Caller, Depends(operator)]
