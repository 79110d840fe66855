"""The pages of all accounts and of one account, for operators. Auditors may read them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel, Field

from domain.access.role import Role
from domain.access.scope import Scope
from domain.billing.suspension import SuspensionReason
from domain.core.errors import Invalid
from domain.core.money import payment_micros_of
from gateway.accounts import service
from gateway.accounts.opening import MAX_NAME
from gateway.accounts.schemas import AccountForm
from gateway.backend import Backend, BackendOf
from gateway.billing import service as billing
from gateway.billing.schemas import Credit, TopUp
from gateway.http.access import Caller
from gateway.http.permissions import MayReadAll, OperatorCredits, OperatorManages
from gateway.http.slow_work import slow
from gateway.keys import service as keys
from gateway.keys.schemas import KeyForm, NewKey
from gateway.keys.view import LIFETIME_DAYS, MEANINGS
from gateway.schemas import Money
from gateway.web.addresses import Given, query_of
from gateway.web.rendering import fragment, page, panel_data
from gateway.web.sign_in import signed_out
from projections.accounts import AccountFilter

PATH = "/ops/accounts"
PAGE_ACCOUNTS = 100

ROLES = (Role.OWNER, Role.OPERATOR, Role.AUDITOR)
"""Roles that an account can have."""

Amount = Annotated[str, Form(max_length=40)]
Reference = Annotated[str, Form(max_length=100)]


class AccountQuery(BaseModel):
    """Query parameters of the list of accounts."""

    name: str = Field(default="", max_length=200)
    suspended: bool = False
    after: Annotated[UUID | None, Given] = None


class KeyEntries(BaseModel):
    """The form of a new key. If `days` is 0, the key expires with the key of the operator."""

    name: str = Field(default="", max_length=100)
    role: Annotated[Role | None, Given] = None
    scope: list[Scope] = Field(default_factory=list[Scope])
    days: int = Field(default=0, ge=0, le=max(LIFETIME_DAYS))

    def form(self, account_role: Role, now: datetime) -> KeyForm:
        """Return the request for the key, with those of the scopes that its role can have."""
        possible = (self.role or account_role).scopes
        return KeyForm(
            name=self.name.strip() or None,
            role=self.role,
            scopes=[each for each in self.scope if each in possible],
            expires_at=now + timedelta(days=self.days) if self.days else None,
        )


router = APIRouter(prefix=PATH)


@router.get("")
def show_accounts(
    request: Request,
    caller: MayReadAll,
    backend: BackendOf,
    query: Annotated[AccountQuery, Query()],
) -> Response:
    """List the accounts, oldest first. With the whole name or ID of one, go to its page."""
    name = query.name.strip()
    known = service.account_named(backend, name) if name else None
    if known is not None:
        return RedirectResponse(f"{PATH}/{known}", 303)
    only = AccountFilter(name, query.suspended)
    listed = service.list_accounts(backend, only, query.after, PAGE_ACCOUNTS)
    filters = {"name": name, "suspended": "true" if query.suspended else ""}
    shown = {
        "accounts": listed,
        "only": only,
        "first_page": f"{PATH}?{query_of(filters)}",
        "next_page": f"{PATH}?{query_of(filters | {'after': listed.data[-1].account.id})}"
        if listed.has_more
        else None,
        "after": query.after,
        "roles": ROLES,
        "most_name": MAX_NAME,
    }
    return page(request, backend, caller, "accounts/list.html", **shown)


@router.post("")
def create_account(
    caller: OperatorManages,
    backend: BackendOf,
    name: Annotated[str, Form(max_length=MAX_NAME)] = "",
    role: Annotated[Role, Form()] = Role.OWNER,
    time_zone: Annotated[str, Form(max_length=64)] = "UTC",
) -> Response:
    """Create an account, and go to its page."""
    if not name.strip():
        raise Invalid("The name is empty. Enter a name.", field="name")
    form = AccountForm(name=name, role=role, time_zone=time_zone.strip())
    made = service.create_account(backend, caller, form)
    return Response(headers={"hx-redirect": f"{PATH}/{made.id}"})


@router.get("/{account_id}")
def show_account(
    request: Request, account_id: UUID, caller: MayReadAll, backend: BackendOf
) -> Response:
    """Show one account, with the forms of an operator."""
    shown = _shown(backend, caller, account_id)
    return page(request, backend, caller, "accounts/page.html", **shown)


@router.post("/{account_id}/credits")
def grant_credit(
    account_id: UUID,
    caller: OperatorCredits,
    backend: BackendOf,
    amount: Amount = "",
    reference: Reference = "",
) -> Response:
    """Grant a credit, once per reference."""
    credit = Credit(amount=amount, reference=required(reference))
    holder = billing.grant_credit(backend, caller, account_id, credit)
    done = f"Granted {written(amount)}. The balance is {holder.balance.text}."
    return changed(backend, caller, account_id, done)


@router.post("/{account_id}/top-ups")
def confirm_top_up(
    account_id: UUID,
    caller: OperatorCredits,
    backend: BackendOf,
    amount: Amount = "",
    reference: Reference = "",
) -> Response:
    """Confirm a payment that was received outside EcoLink, once per reference."""
    payment = TopUp(amount=amount, reference=required(reference))
    holder = billing.confirm_top_up(backend, caller, account_id, payment)
    done = f"Confirmed {written(amount)}. The balance is {holder.balance.text}."
    return changed(backend, caller, account_id, done)


@router.post("/{account_id}/suspend")
def suspend(
    account_id: UUID,
    caller: OperatorManages,
    backend: BackendOf,
    reason: Annotated[SuspensionReason, Form()],
) -> Response:
    """Suspend the account, or change the reason."""
    service.suspend_account(backend, caller, account_id, reason)
    return changed(backend, caller, account_id, "The account is suspended.")


@router.post("/{account_id}/reinstate")
def reinstate(account_id: UUID, caller: OperatorManages, backend: BackendOf) -> Response:
    """End the suspension."""
    service.reinstate_account(backend, caller, account_id)
    return changed(backend, caller, account_id, "The account is reinstated.")


@router.post("/{account_id}/erase")
@slow
def erase(
    account_id: UUID,
    caller: OperatorManages,
    backend: BackendOf,
    name: Annotated[str, Form(max_length=MAX_NAME)] = "",
) -> Response:
    """Erase the personal data of a suspended account."""
    kept = service.erase_account(backend, caller, account_id, name.strip())
    done = f"The account is erased. Its rows and files are deleted within seconds.{kept}"
    return changed(backend, caller, account_id, done)


@router.post("/{account_id}/keys")
def create_key(
    account_id: UUID,
    entered: Annotated[KeyEntries, Form()],
    caller: OperatorManages,
    backend: BackendOf,
) -> Response:
    """Create a key and show its secret. Later pages do not show the secret."""
    acting = service.acting_for(backend, caller, account_id)
    made = keys.create_key(backend, acting, entered.form(acting.role, backend.clock.now()))
    return changed(backend, caller, account_id, made=made)


@router.post("/{account_id}/keys/{key_id}/revoke")
def revoke_key(
    account_id: UUID, key_id: UUID, caller: OperatorManages, backend: BackendOf
) -> Response:
    """Revoke a key of the account. Revoking the key of this session signs the operator out."""
    acting = service.acting_for(backend, caller, account_id)
    revoked = keys.revoke_key(backend, acting, key_id)
    if revoked.current:
        return signed_out()
    return changed(backend, caller, account_id, f"Revoked the key eco_…{revoked.hint}.")


def changed(
    backend: Backend, caller: Caller, account_id: UUID, done: str = "", made: NewKey | None = None
) -> Response:
    """Return the changed page of an account, with a message."""
    shown = _shown(backend, caller, account_id, done, made)
    return fragment("accounts/account.html", **shown)


def _shown(
    backend: Backend, caller: Caller, account_id: UUID, done: str = "", made: NewKey | None = None
) -> dict[str, Any]:
    acting = service.acting_for(backend, caller, account_id)
    return {
        "detail": service.detail(backend, caller, account_id),
        **panel_data("ops.account", backend),
        "done": done,
        "made": made,
        "key_roles": acting.role.key_roles,
        "key_scopes": [each for each in acting.rights.scopes if each in acting.role.scopes],
        "meanings": MEANINGS,
        "lifetimes": LIFETIME_DAYS,
        "expires": caller.rights.expires_at is not None,
        "reasons": list(SuspensionReason),
        "most_name": MAX_NAME,
    }


def required(reference: str) -> str:
    """Return a reference without spaces around it. Raise Invalid if it is empty."""
    if not reference.strip():
        raise Invalid("The reference is empty. Enter the purpose or number.", field="reference")
    return reference.strip()


def written(amount: str) -> str:
    """Return an amount as on pages. Raise Invalid."""
    return Money.of(payment_micros_of(amount, field="amount")).text
