"""The account whose pages an auditor reads."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from domain.billing.account import Account
from domain.core.errors import NotFound
from gateway.backend import Backend, BackendOf
from gateway.http.access import ACCOUNT_COOKIE
from gateway.http.origin import is_secure
from gateway.http.permissions import AuditorReads
from gateway.web.sign_in import FIRST_PAGE
from infrastructure.accounts.profiles import account_id_of

router = APIRouter(prefix="/viewing")


@router.post("")
def view_account(
    account: Annotated[str, Form(max_length=200)],
    request: Request,
    caller: AuditorReads,
    backend: BackendOf,
) -> Response:
    """Show the pages of an account, given by its name or ID, to an auditor."""
    account_id = _account(backend, account.strip())
    response = RedirectResponse(FIRST_PAGE, HTTPStatus.SEE_OTHER)
    secure = is_secure(request)
    response.set_cookie(
        ACCOUNT_COOKIE, str(account_id), secure=secure, httponly=True, samesite="lax"
    )
    return response


def _account(backend: Backend, named: str) -> UUID:
    with backend.pool.connection() as connection:
        account_id = account_id_of(connection, named)
    if account_id is None or backend.log.find(Account, account_id) is None:
        raise NotFound(f"Unknown account {named!r}. See GET /api/accounts.")
    return account_id
