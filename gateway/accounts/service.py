"""Use cases and queries of all accounts, for operators and auditors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import UUID

from domain.billing.account import Account
from domain.billing.suspension import SuspensionReason
from domain.core.aggregate import because
from domain.core.errors import Invalid
from domain.use_cases.erasing import Erasing, kept_card
from gateway.accounts.opening import open_named
from gateway.accounts.schemas import AccountForm
from gateway.backend import Backend
from gateway.billing import service as billing
from gateway.billing.budgets import budgets_of
from gateway.billing.schemas import AccountResponse, BudgetResponse, Posting
from gateway.billing.statements import newest_ledger
from gateway.http.access import Caller
from gateway.http.read_your_writes import caught_up
from gateway.keys.schemas import KeyResponse
from gateway.keys.service import list_keys
from gateway.schemas import Page, ResponseModel
from infrastructure.accounts.personal_data import endings, holdings_of
from infrastructure.accounts.profiles import account_id_of, name_of_account
from infrastructure.payments.provider import card_provider
from projections import ACCOUNTS, API_KEYS
from projections.accounts import AccountFilter
from projections.accounts import account as account_row
from projections.billing_ledger import PostingFilter, Reason
from projections.open_meters import burns

SHOWN_PAYMENTS = 20
PAID_IN = PostingFilter(reasons=(Reason.CREDIT_GRANTED, Reason.TOPPED_UP))


class ListedAccount(ResponseModel):
    """An account, and the number of its jobs that run on a GPU."""

    account: AccountResponse
    running_jobs: int


@dataclass(frozen=True)
class AccountDetail:
    """An account with its keys, budgets and newest credits and payments."""

    account: AccountResponse
    runway: billing.Runway
    keys: list[KeyResponse]
    budgets: list[BudgetResponse]
    payments: Page[Posting]


def acting_for(backend: Backend, operator: Caller, account_id: UUID) -> Caller:
    """Return an operator who acts for another account, with their own key's scopes and expiry."""
    role = backend.log.load(Account, account_id).role
    return replace(operator, account_id=account_id, rights=replace(operator.rights, role=role))


def create_account(backend: Backend, operator: Caller, form: AccountForm) -> AccountResponse:
    """Open an account without keys. Raise Invalid for an invalid name, role or time zone."""
    with backend.pool.connection() as connection, because(operator.cause(backend)):
        account = open_named(connection, backend.ecolink, form.name, form.role, form.time_zone)
    return _changed(backend, account)


def suspend_account(
    backend: Backend, operator: Caller, account_id: UUID, reason: SuspensionReason
) -> AccountResponse:
    """Suspend an account with the role `owner`, or change the reason of its suspension."""
    return _command(backend, operator, lambda: backend.ecolink.suspend(account_id, reason))


def reinstate_account(backend: Backend, operator: Caller, account_id: UUID) -> AccountResponse:
    """End the suspension of an account. Raise NotFound if the account does not exist."""
    return _command(backend, operator, lambda: backend.ecolink.reinstate(account_id))


def erase_account(backend: Backend, operator: Caller, account_id: UUID, name: str) -> str:
    """Record the erasure of a suspended account. The scheduler then deletes its rows and files.

    Return a sentence if the payment provider keeps the card, because payments are disabled.

    `name` is the account's name, or its ID if it has no name, as the operator typed it. Raise
    Invalid if it differs, NotFound if the account does not exist, and WrongState unless it is
    suspended and none of its jobs has GPUs. Raise ProviderUnavailable if the payment provider still
    has the card. Repeat it then.
    """
    with backend.pool.connection() as connection:
        wanted = name_of_account(connection, account_id) or str(account_id)
        if name != wanted:
            raise Invalid(f"{name!r} is not the account's name. Enter {wanted}.", field="name")
        holdings = holdings_of(connection, account_id)
    cards = card_provider()
    remove_cards = None if cards is None else cards.remove_cards

    def end_others(account_id: UUID) -> None:
        with backend.pool.connection() as connection:
            endings(backend.log, connection)(account_id)

    with because(operator.cause(backend)):
        Erasing(backend.log, remove_cards, end_others).erase(account_id, holdings)
    caught_up(backend, ACCOUNTS, API_KEYS)
    return kept_card(backend.log, account_id)


def _command(backend: Backend, operator: Caller, command: Callable[[], Account]) -> AccountResponse:
    with because(operator.cause(backend)):
        account = command()
    return _changed(backend, account)


def _changed(backend: Backend, account: Account) -> AccountResponse:
    caught_up(backend, ACCOUNTS)
    return billing.account_answer(backend, account.id, vars(account))


def detail(backend: Backend, operator: Caller, account_id: UUID) -> AccountDetail:
    """Return an account with its keys, budgets and payments."""
    account = billing.account_with_id(backend, account_id)
    acting = acting_for(backend, operator, account_id)
    return AccountDetail(
        account=account,
        runway=billing.runway_of(backend, account),
        keys=list_keys(backend, acting),
        budgets=budgets_of(backend, acting),
        payments=newest_ledger(backend, acting, PAID_IN, None, SHOWN_PAYMENTS),
    )


def list_accounts(
    backend: Backend, only: AccountFilter, after: UUID | None, limit: int
) -> Page[ListedAccount]:
    """Return accounts that pass a filter, oldest first. Raise NotFound for an unknown `after`."""
    found = billing.list_accounts(backend, only, after, limit)
    with backend.pool.connection() as connection:
        running = burns(connection, [each.id for each in found.data])
    rows = [ListedAccount(account=each, running_jobs=running[each.id].jobs) for each in found.data]
    return Page[ListedAccount](data=rows, has_more=found.has_more)


def account_named(backend: Backend, text: str) -> UUID | None:
    """Return the ID of the account with this name or ID, or None."""
    with backend.pool.connection() as connection:
        id = account_id_of(connection, text)
        return id if id is not None and account_row(connection, id) is not None else None
