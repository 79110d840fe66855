"""Routes with which operators manage accounts and their keys under /api."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body

from gateway.accounts import service
from gateway.accounts.schemas import AccountForm, SuspensionForm
from gateway.backend import BackendOf
from gateway.billing.schemas import AccountResponse
from gateway.billing.service import account_with_id
from gateway.http.errors import refusals
from gateway.http.operations import Operation
from gateway.http.permissions import MayReadAll, OperatorManages
from gateway.keys import service as keys
from gateway.keys.schemas import KeyForm, KeyResponse, NewKey
from gateway.schemas import Listed

router = APIRouter(prefix="/accounts", tags=["accounts"], route_class=Operation)


@router.post("", status_code=201)
def create_account(
    form: AccountForm, caller: OperatorManages, backend: BackendOf
) -> AccountResponse:
    """Create an account with a balance of 0 and without keys."""
    return service.create_account(backend, caller, form)


@router.get("/{account_id}", responses=refusals(404))
def show_any_account(account_id: UUID, caller: MayReadAll, backend: BackendOf) -> AccountResponse:
    """Show an account. Only operators and auditors can do this."""
    return account_with_id(backend, account_id)


@router.post("/{account_id}/suspend", responses=refusals(404, 409))
def suspend_account(
    account_id: UUID, form: SuspensionForm, caller: OperatorManages, backend: BackendOf
) -> AccountResponse:
    """Suspend an account, or change the reason of its suspension.

    A suspended account is read-only. Its running jobs save a checkpoint and pause, and its
    deployments stop responding. Its balance and its keys do not change. Only an account with the
    role `owner` can be suspended.
    """
    return service.suspend_account(backend, caller, account_id, form.reason)


@router.post("/{account_id}/reinstate", responses=refusals(404))
def reinstate_account(
    account_id: UUID, caller: OperatorManages, backend: BackendOf
) -> AccountResponse:
    """End the suspension of an account. Its deployments respond again, and its jobs can resume."""
    return service.reinstate_account(backend, caller, account_id)


@router.get("/{account_id}/keys", responses=refusals(404))
def list_keys_of_account(
    account_id: UUID, caller: MayReadAll, backend: BackendOf
) -> Listed[KeyResponse]:
    """List the keys of an account, oldest first, including revoked and expired ones."""
    return Listed(data=keys.list_keys(backend, service.acting_for(backend, caller, account_id)))


@router.post("/{account_id}/keys", status_code=201, responses=refusals(404))
def create_key_of_account(
    account_id: UUID,
    caller: OperatorManages,
    backend: BackendOf,
    form: Annotated[KeyForm | None, Body()] = None,
) -> NewKey:
    """Create an API key for an account. EcoLink stores only its hash.

    The key cannot have more scopes or a later expiry than the key of the operator. A suspended
    account gets no keys.
    """
    acting = service.acting_for(backend, caller, account_id)
    return keys.create_key(backend, acting, form or KeyForm())


@router.post("/{account_id}/keys/{key_id}/revoke", responses=refusals(404, 409))
def revoke_key_of_account(
    account_id: UUID, key_id: UUID, caller: OperatorManages, backend: BackendOf
) -> KeyResponse:
    """Revoke a key of an account immediately."""
    return keys.revoke_key(backend, service.acting_for(backend, caller, account_id), key_id)
