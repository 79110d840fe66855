"""Budgets of an account by calendar day and month."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

from domain.billing.account import Account
from domain.billing.budget import Budget, BudgetPeriod
from domain.core.aggregate import because
from domain.core.money import Toward, micros_of
from gateway.backend import Backend
from gateway.billing.schemas import BudgetAnswer
from gateway.http.access import Caller
from gateway.schemas import Money


def budgets_of(backend: Backend, caller: Caller) -> list[BudgetAnswer]:
    """Return the caller's budgets in their current periods, the day first."""
    return _answers(backend, backend.log.load(Account, caller.account_id))


def set_budget(
    backend: Backend, caller: Caller, period: BudgetPeriod, limit: str
) -> list[BudgetAnswer]:
    """Set a budget, and return all budgets. Raise Invalid for a malformed amount."""
    limit_micros = micros_of(limit, field="limit")
    with because(caller.cause(backend)):
        account = backend.ecolink.set_budget(caller.account_id, period, limit_micros)
    return _answers(backend, account)


def remove_budget(backend: Backend, caller: Caller, period: BudgetPeriod) -> list[BudgetAnswer]:
    """Remove a budget, if it is set, and return the others."""
    with because(caller.cause(backend)):
        account = backend.ecolink.remove_budget(caller.account_id, period)
    return _answers(backend, account)


def _answers(backend: Backend, account: Account) -> list[BudgetAnswer]:
    found: Sequence[Budget] = account.budgets_on(backend.clock.now().date())
    return [_answer(each) for each in sorted(found, key=lambda each: each.period)]


def _answer(budget: Budget) -> BudgetAnswer:
    return BudgetAnswer(
        period=budget.period,
        limit=Money.price(budget.limit_micros),
        spent=Money.of(budget.spent_micros),
        left=Money.of(budget.left_micros, Toward.DOWN),
        used_percent=100 * budget.spent_micros // budget.limit_micros,
        starts_on=budget.starts_on,
        renews_on=_next_period(budget),
    )


def _next_period(budget: Budget) -> date:
    longest = timedelta(days=31 if budget.period is BudgetPeriod.MONTH else 1)
    return budget.period.first_day(budget.starts_on + longest)
