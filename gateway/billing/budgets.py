"""Budgets of an account and of its API keys, by calendar day, by month and in total."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from domain.access.api_key import ApiKey
from domain.billing.account import Account
from domain.billing.budget import Budget, BudgetName
from domain.core.aggregate import because
from domain.core.money import Toward, micros_of
from gateway.backend import Backend
from gateway.billing.schemas import BudgetKey, BudgetResponse
from gateway.http.access import Caller
from gateway.schemas import Money
from infrastructure.accounts.profiles import key_names


class BudgetRefused(NamedTuple):
    """An invalid value in the form of a budget."""

    name: BudgetName
    limit: str
    why: str


def budgets_of(backend: Backend, caller: Caller) -> list[BudgetResponse]:
    """Return the caller's budgets in their current periods, first those for all jobs."""
    return _answers(backend, backend.log.load(Account, caller.account_id))


def set_budget(
    backend: Backend, caller: Caller, name: BudgetName, limit: str
) -> list[BudgetResponse]:
    """Set a budget, and return all budgets."""
    limit_micros = micros_of(limit, field="limit")
    with because(caller.cause(backend)):
        account = backend.ecolink.set_budget(caller.account_id, name, limit_micros)
    return _answers(backend, account)


def remove_budget(backend: Backend, caller: Caller, name: BudgetName) -> list[BudgetResponse]:
    """Remove a budget, if it is set, and return the others."""
    with because(caller.cause(backend)):
        account = backend.ecolink.remove_budget(caller.account_id, name)
    return _answers(backend, account)


def _answers(backend: Backend, account: Account) -> list[BudgetResponse]:
    today = backend.clock.now().date()
    keys = _keys(backend, {id for _, id in account.budgets if id is not None})
    found = [
        _answer(each.at(today), None if each.key_id is None else keys[each.key_id])
        for each in account.budgets.values()
    ]
    return sorted(found, key=lambda each: (str(each.key.id) if each.key else "", each.period))


def _keys(backend: Backend, key_ids: set[UUID]) -> dict[UUID, BudgetKey]:
    """Return the names and hints of API keys. The hints come from the log, which does not lag."""
    with backend.pool.connection() as connection:
        names = key_names(connection, list(key_ids))
    return {
        id: BudgetKey(id=id, name=names.get(id), hint=backend.log.load(ApiKey, id).hint)
        for id in key_ids
    }


def _answer(budget: Budget, key: BudgetKey | None) -> BudgetResponse:
    return BudgetResponse(
        period=budget.period,
        key=key,
        limit=Money.price(budget.limit_micros),
        spent=Money.of(budget.spent_micros),
        left=Money.of(budget.left_micros, Toward.DOWN),
        used_percent=budget.used_percent,
        starts_on=budget.starts_on,
        renews_on=budget.renews_on,
    )
