"""API key management on the models page."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Form
from fastapi.responses import Response

from domain.access.role import Role
from domain.access.scope import Scope
from domain.billing.budget import BudgetName, BudgetPeriod
from domain.core.errors import Invalid
from gateway.backend import BackendOf
from gateway.billing.budgets import BudgetRefused, remove_budget, set_budget
from gateway.http.permissions import MayManageKeys, MayPay
from gateway.keys import service
from gateway.keys.schemas import KeyForm
from gateway.keys.view import LIFETIME_DAYS, shown_keys
from gateway.web.rendering import fragment
from gateway.web.sign_in import signed_out

router = APIRouter(prefix="/models/keys")


@router.post("")
def create_key(
    caller: MayManageKeys,
    backend: BackendOf,
    name: Annotated[str, Form(max_length=100)] = "",
    role: Annotated[Role | None, Form()] = None,
    scope: Annotated[list[Scope] | None, Form()] = None,
    days: Annotated[int, Form(ge=0, le=max(LIFETIME_DAYS))] = 0,
) -> Response:
    """Create a key and show its secret. Later pages do not show the secret.

    If `days` is 0, the key does not expire. A member's key gets only scopes that members have.
    """
    possible = (role or caller.role).scopes
    form = KeyForm(
        name=name.strip() or None,
        role=role,
        scopes=[each for each in scope or () if each in possible],
        expires_at=backend.clock.now() + timedelta(days=days) if days else None,
    )
    made = service.create_key(backend, caller, form)
    return fragment("keys/new.html", made=made, **shown_keys(backend, caller))


@router.post("/{key_id}/budgets")
def change_budget(
    key_id: UUID,
    caller: MayPay,
    backend: BackendOf,
    period: Annotated[BudgetPeriod, Form()],
    limit: Annotated[str, Form(max_length=40)] = "",
    remove: Annotated[bool, Form()] = False,
) -> Response:
    """Set a budget of a key, or remove it."""
    name, refused = BudgetName(period, key_id), None
    try:
        if remove:
            remove_budget(backend, caller, name)
        else:
            set_budget(backend, caller, name, limit)
    except Invalid as problem:
        refused = BudgetRefused(name, limit, problem.message)
    return fragment("keys/list.html", **shown_keys(backend, caller), refused=refused)


@router.post("/{key_id}/revoke")
def revoke_key(key_id: UUID, caller: MayManageKeys, backend: BackendOf) -> Response:
    """Revoke a key. Revoking the key of this session signs the user out."""
    revoked = service.revoke_key(backend, caller, key_id)
    if revoked.current:
        return signed_out()
    return fragment("keys/list.html", **shown_keys(backend, caller))
