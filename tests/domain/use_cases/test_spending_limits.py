"""Budgets before an approval or a resume."""

from __future__ import annotations

from uuid import UUID

import pytest

from domain.access.api_key import ApiKey
from domain.access.rights import Rights
from domain.access.role import Role
from domain.access.scope import Scope
from domain.billing.account import Account
from domain.billing.budget import BudgetName, BudgetPeriod
from domain.billing.key_use import Share
from domain.core.errors import SpendingLimitReached
from domain.core.event_log import EventLog
from domain.use_cases.spending_limits import CostRange, Outlook, SpendingLimits
from tests.builders.commands import NOW
from tests.builders.examples import ACCOUNT_ID, ESTIMATE

DOLLAR = 1_000_000
COST = CostRange(2 * DOLLAR, 3 * DOLLAR, 36 * DOLLAR, capped=False)
"""A job for $2 to $3. A second costs $0.01, and a metered minute $0.60."""

DAY, MONTH, TOTAL = BudgetPeriod


class Payer:
    """An account with one API key, and budgets that its jobs have used in part."""

    def __init__(self) -> None:
        self.log = EventLog()
        self.account = Account.open(ACCOUNT_ID, Role.OWNER, "UTC")
        self.account.grant_credit(1000 * DOLLAR, "first")
        self.key = ApiKey.issue(ACCOUNT_ID, Rights(Role.MEMBER, (Scope.TRAIN,)), "eco_x7Qa")
        self.limits = SpendingLimits(self.log, 60)

    def budget(self, period: BudgetPeriod, limit: float, key_id: UUID | None = None) -> None:
        """Set a budget in dollars."""
        name = BudgetName(period, key_id)
        self.account.set_budget(name, round(limit * DOLLAR), 0)

    def charge(self, dollars: float) -> None:
        """Charge an amount that counts against the key."""
        micros = round(dollars * DOLLAR)
        keys = {self.key.id: Share(micros, micros)}
        self.account.settle(captured_micros=micros, reserved_micros=micros, keys=keys)

    def notices(self, cost: CostRange = COST) -> list[tuple[Outlook, str]]:
        """Return what the budgets mean for a job of the key."""
        self.log.commit(self.account, self.key)
        found = self.limits.notices(ACCOUNT_ID, self.key.id, cost, NOW.date())
        return [(each.outlook, each.text) for each in found]


@pytest.mark.parametrize(
    ("limit", "charged", "outlook"),
    [
        (10, 0, None),
        (10, 7, None),
        (10, 7.01, Outlook.POSSIBLE),
        (10, 8, Outlook.POSSIBLE),
        (10, 8.01, Outlook.REACHED),
        (10, 9.4, Outlook.REACHED),
        (10, 9.41, Outlook.USED_UP),
        (10, 10, Outlook.USED_UP),
        (20, 16, Outlook.NEARLY_USED),
    ],
)
def test_a_budget_means_for_a_job(limit: float, charged: float, outlook: Outlook | None) -> None:
    payer = Payer()
    payer.budget(MONTH, limit)
    payer.charge(charged)
    assert [each for each, _ in payer.notices()] == ([] if outlook is None else [outlook])


def test_a_job_that_costs_less_than_a_minute_needs_only_its_upper_bound() -> None:
    payer = Payer()
    payer.budget(MONTH, 1)
    payer.charge(0.9)
    assert payer.notices(CostRange(0, DOLLAR // 10, 36 * DOLLAR, capped=False))[0][0] is (
        Outlook.NEARLY_USED
    )


def test_each_notice_names_the_budget_what_is_left_and_what_will_happen() -> None:
    payer = Payer()
    payer.budget(DAY, 2.5)
    payer.budget(MONTH, 3.5, payer.key.id)
    payer.budget(TOTAL, 1.5, payer.key.id)
    payer.charge(1)
    assert [text for _, text in payer.notices()] == [
        "The daily budget of $2.50 has $1.50 left, but the job costs at least $2.00. The job will "
        "pause at $1.50, unless the budget renews before, on 2026-11-25 (UTC). You can then raise "
        "the budget and resume the job.",
        "The monthly budget of $3.50 for the API key eco_…x7Qa has $2.50 left, but the job can "
        "cost $3.00. The job will pause if its cost reaches $2.50, unless the budget renews "
        "before, on 2026-12-01 (UTC). You can then raise the budget and resume the job.",
        "The total budget of $1.50 for the API key eco_…x7Qa has $0.50 left, but the job needs "
        "$0.60 to start. Raise or remove the budget.",
    ]
    with pytest.raises(SpendingLimitReached) as refusal:
        payer.limits.require_left_of_budgets(ACCOUNT_ID, payer.key.id, COST, NOW.date())
    assert refusal.value.figures == {
        "period": "total",
        "key_id": str(payer.key.id),
        "spent_micros": DOLLAR,
        "limit_micros": DOLLAR * 3 // 2,
        "needed_micros": DOLLAR * 6 // 10,
    }
    payer.limits.require_left_of_budgets(ACCOUNT_ID, None, COST, NOW.date())


def test_a_maximum_cost_bounds_the_range() -> None:
    high = ESTIMATE.high_micros
    assert CostRange.of(ESTIMATE).high_micros == high
    assert CostRange.of(ESTIMATE, high).capped is False
    capped = CostRange.of(ESTIMATE, 1000)
    assert (capped.low_micros, capped.high_micros, capped.capped) == (1000, 1000, True)
