"""Who calls: the account behind an API key, and what its role allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from domain.account import Role
from domain.aggregate import Cause
from gateway.backend import Backend, BackendOf
from gateway.errors import Forbidden, Unauthenticated

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
) -> Caller:
    """The holder of the API key; every call reads the log, so that a revoked key ends at once."""
    if credentials is None:
        raise Unauthenticated("send an API key in the header `Authorization: Bearer eco_...`")
    known = holder_of(backend, credentials.credentials, request.state.request_id)
    request.state.caller = known
    return known


def holder_of(backend: Backend, secret: str, request_id: str) -> Caller:
    """The holder of the API key with this secret; raises Unauthenticated."""
    key = backend.ecolink.authenticate(secret)
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
