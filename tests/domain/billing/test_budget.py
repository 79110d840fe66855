"""Budgets of an account by calendar day and month."""

from __future__ import annotations

from datetime import date, timedelta
from uuid import UUID

import pytest
from hypothesis import given as sampled
from hypothesis import strategies as st

from domain.billing.account import Account
from domain.billing.budget import BudgetName, BudgetPeriod
from domain.billing.key_use import KeyUse, Share
from domain.billing.spending import charged_since
from domain.core.errors import Invalid
from domain.core.event_log import EventLog
from domain.use_cases.accounts import EcoLink
from tests.builders.bills import Bills, Run, day
from tests.builders.commands import NOW, command
from tests.builders.examples import JOB_ID, account
from tests.builders.scenario import AccountStep, fact, later, when

DAY, MONTH, TOTAL = BudgetPeriod
KEY, OTHER_KEY = (UUID(int=number) for number in (1, 2))
DAY_SECONDS = timedelta(days=1).total_seconds()
TODAY = NOW.date()


def budgets(
    limit_micros: int,
    period: BudgetPeriod = DAY,
    spent_micros: int = 0,
    key_id: UUID | None = None,
) -> AccountStep:
    name = BudgetName(period, key_id)
    return lambda given: given.set_budget(name, limit_micros, spent_micros)


def removes(period: BudgetPeriod = DAY, key_id: UUID | None = None) -> AccountStep:
    return lambda given: given.remove_budget(BudgetName(period, key_id))


def reserves(micros: int, key_id: UUID | None = None) -> AccountStep:
    keys = {key_id: Share(reserved_micros=micros)} if key_id else {}
    return lambda given: given.settle(captured_micros=0, reserved_micros=micros, keys=keys)


def charges(micros: int, second_micros: int = 0, key_id: UUID | None = None) -> AccountStep:
    """Charge an amount that was not reserved before."""
    keys = {key_id: Share(micros, micros, second_micros)} if key_id else {}
    return lambda given: given.settle(
        captured_micros=micros, reserved_micros=micros, second_micros=second_micros, keys=keys
    )


def credits(micros: int, key_id: UUID | None = None) -> AccountStep:
    return lambda given: given.reverse_charge(micros, JOB_ID, 1, 0, 10, key_id)


def leasable(*steps: AccountStep) -> int:
    """Return what leases of an account with 10,000 micro-dollars may reserve after some steps."""
    given = account(10_000)
    when(given, *steps)
    return given.leasable_micros


@pytest.mark.parametrize(
    ("steps", "micros"),
    [
        pytest.param([], 10_000, id="no budget"),
        pytest.param([budgets(800)], 800, id="an unused budget"),
        pytest.param([budgets(800), budgets(300, MONTH)], 300, id="the tighter budget"),
        pytest.param([budgets(20_000)], 10_000, id="the balance below the budget"),
        pytest.param([budgets(800, spent_micros=500)], 300, id="charges before the budget"),
        pytest.param([charges(500), budgets(800), charges(200)], 600, id="charges after it"),
        pytest.param([budgets(800), reserves(300), charges(100)], 400, id="leases"),
        pytest.param([budgets(800), charges(500), credits(200)], 500, id="credits"),
        pytest.param([budgets(800), credits(200)], 800, id="a credit without a charge"),
        pytest.param([budgets(800), charges(500), budgets(400, spent_micros=500)], 0, id="lowered"),
        pytest.param([budgets(800), charges(800), removes()], 9_200, id="removed"),
    ],
)
def test_leases_stay_within_the_budgets(steps: list[AccountStep], micros: int) -> None:
    assert leasable(*steps) == micros


@pytest.mark.parametrize(
    ("period", "days", "left"), [(DAY, 0, 300), (DAY, 1, 800), (MONTH, 6, 300), (MONTH, 7, 800)]
)
def test_a_new_period_has_a_whole_budget(period: BudgetPeriod, days: int, left: int) -> None:
    """Noon of November 24 is six days before the last day of the month."""
    given = account(10_000)
    when(given, budgets(800, period), charges(500))
    found: list[int] = []
    later(days * DAY_SECONDS, lambda each: found.append(each.leasable_micros))(given)
    assert found == [left]


def test_a_lease_from_before_midnight_counts_in_the_new_day() -> None:
    given, found = account(10_000), list[int]()
    when(given, budgets(800), charges(500), reserves(300))
    tomorrow = DAY_SECONDS
    later(tomorrow, lambda each: found.append(each.leasable_micros))(given)
    later(tomorrow, lambda each: each.settle(captured_micros=300, reserved_micros=0))(given)
    later(tomorrow, lambda each: found.append(each.leasable_micros))(given)
    assert found == [500, 500]


def test_a_clock_that_jumps_back_reopens_no_period() -> None:
    given = account(10_000)
    later(DAY_SECONDS, budgets(800))(given)
    when(given, charges(500))
    assert given.budgets[BudgetName(DAY)].starts_on == TODAY + timedelta(days=1)
    assert given.leasable_micros == 300


def used(percent: int, spent_micros: int, limit_micros: int = 1000, first: date = TODAY) -> fact:
    return fact(
        "BudgetUsed",
        period=DAY,
        starts_on=first,
        percent=percent,
        spent_micros=spent_micros,
        limit_micros=limit_micros,
    )


def test_50_80_and_100_percent_are_recorded_once_in_each_period() -> None:
    given = account(10_000)
    when(given, budgets(1000))
    amounts = (499, 1, 10, 290, 100, 100)
    recorded = when(given, *(charges(each) for each in amounts))
    assert [each for each in recorded if each.TOPIC == "BudgetUsed"] == [
        *(used(50, 500), used(80, 800), used(100, 1000))
    ]
    tomorrow = TODAY + timedelta(days=1)
    recorded = when(given, later(DAY_SECONDS, charges(850)))
    assert recorded[1:] == [used(50, 850, first=tomorrow), used(80, 850, first=tomorrow)]


def test_100_percent_is_reached_if_the_rest_pays_for_no_second() -> None:
    given = account(10_000)
    when(given, budgets(1000))
    assert when(given, charges(940, second_micros=60))[1:] == [used(50, 940), used(80, 940)]
    assert when(given, charges(1, second_micros=60))[1:] == [used(100, 941)]


def test_a_changed_limit_is_warned_of_again() -> None:
    given = account(10_000)
    when(given, budgets(1000), charges(600))
    assert when(given, budgets(1100, spent_micros=600), charges(1))[-1:] == [used(50, 601, 1100)]


def test_the_account_holder_sets_changes_and_removes_a_budget() -> None:
    given = account(10_000)
    steps = [budgets(800), budgets(800), budgets(900, MONTH), removes(), removes()]
    assert when(given, *steps) == [
        fact("BudgetSet", period=DAY, limit_micros=800),
        fact("BudgetSet", period=MONTH, limit_micros=900),
        fact("BudgetRemoved", period=DAY),
    ]


@pytest.mark.parametrize("limit_micros", [0, -1])
def test_a_budget_of_nothing_is_refused(limit_micros: int) -> None:
    with pytest.raises(Invalid) as refusal:
        budgets(limit_micros)(account(10_000))
    assert refusal.value.field == "limit"


def test_a_snapshot_has_the_budgets() -> None:
    given = account(10_000)
    when(given, budgets(800), budgets(900, TOTAL, key_id=KEY), charges(500, key_id=KEY))
    snapshot = Account.Snapshot.take(given)
    assert Account.Snapshot.model_validate_json(snapshot.model_dump_json()).mutate(None) == given


def test_a_new_budget_counts_the_charges_of_its_period() -> None:
    """A job of October costs $0.13, and one of November 2 $0.09 after a credit."""
    log = EventLog()
    bills = Bills(log, day(10, 31))
    bills.history.open_account(9_000_000)
    bills.run(Run(3_600_000, 130))
    bills.now = day(11, 2)
    bills.run(Run(3_600_000, 100, kept_seconds=90))
    bills.now = day(11, 3)
    with bills.command("budgets"):
        set_budget = EcoLink(log).set_budget
        account_id = bills.history.account_id
        spent = [
            set_budget(account_id, name, 10**6).budgets[name].spent_micros
            for name in (BudgetName(DAY), BudgetName(MONTH))
        ]
    assert spent == [0, 90_000]
    assert charged_since(log, bills.history.account, date(2026, 10, 1)) == 220_000


def leasable_for(key_id: UUID | None, *steps: AccountStep) -> int:
    given = account(10_000)
    when(given, *steps)
    return given.leasable_micros_for(key_id)


@pytest.mark.parametrize(
    ("steps", "of_key", "of_other", "of_account"),
    [
        pytest.param([budgets(800, key_id=KEY)], 800, 10_000, 10_000, id="an unused budget"),
        pytest.param(
            [budgets(800, key_id=KEY), budgets(500)], 500, 500, 500, id="a tighter one for all"
        ),
        pytest.param(
            [budgets(800, key_id=KEY), charges(300, key_id=KEY), charges(100, key_id=OTHER_KEY)],
            *(500, 9_600, 9_600),
            id="charges of each key",
        ),
        pytest.param(
            [reserves(200, KEY), budgets(800, key_id=KEY)],
            *(600, 9_800, 9_800),
            id="a lease from before the budget",
        ),
        pytest.param(
            [budgets(800, TOTAL, key_id=KEY), charges(300, key_id=KEY), credits(100, KEY)],
            *(600, 9_800, 9_800),
            id="a credit",
        ),
        pytest.param(
            [budgets(800, key_id=KEY), budgets(300, TOTAL, key_id=KEY), charges(250, key_id=KEY)],
            *(50, 9_750, 9_750),
            id="the tightest of its budgets",
        ),
        pytest.param(
            [budgets(800, key_id=KEY), charges(800, key_id=KEY), removes(key_id=KEY)],
            *(9_200, 9_200, 9_200),
            id="removed",
        ),
    ],
)
def test_the_budget_of_a_key_limits_only_the_leases_of_its_jobs(
    steps: list[AccountStep], of_key: int, of_other: int, of_account: int
) -> None:
    assert [leasable_for(each, *steps) for each in (KEY, OTHER_KEY, None)] == [
        *(of_key, of_other, of_account)
    ]


def test_a_budget_in_total_never_renews() -> None:
    given = account(10_000)
    when(given, budgets(800, TOTAL, key_id=KEY), charges(500, key_id=KEY))
    found: list[int] = []
    later(400 * DAY_SECONDS, lambda each: found.append(each.leasable_micros_for(KEY)))(given)
    assert found == [300]


def test_an_account_has_no_budget_in_total() -> None:
    with pytest.raises(Invalid) as refusal:
        budgets(800, TOTAL)(account(10_000))
    assert refusal.value.field == "period"


def test_warnings_name_the_key_and_count_its_seconds_alone() -> None:
    given = account(10_000)
    when(given, budgets(1000, TOTAL, key_id=KEY))
    of_key = {"key_id": KEY, "period": TOTAL, "starts_on": None}
    assert when(given, charges(500, key_id=OTHER_KEY))[1:] == []
    assert when(given, charges(940, second_micros=60, key_id=KEY))[1:] == [
        fact("BudgetUsed", percent=percent, spent_micros=940, **of_key) for percent in (50, 80)
    ]
    assert when(given, charges(1, second_micros=60, key_id=KEY))[1:] == [
        fact("BudgetUsed", percent=100, spent_micros=941, **of_key)
    ]


LATE = (BudgetName(DAY), BudgetName(MONTH), BudgetName(MONTH, KEY), BudgetName(TOTAL, KEY))
HOURS, MICROS = st.integers(0, 40), st.integers(-500, 500).filter(bool)


@sampled(st.lists(st.tuples(HOURS, MICROS, st.sampled_from((None, KEY, OTHER_KEY))), max_size=30))
def test_a_late_budget_has_spent_what_an_early_one_has(
    steps: list[tuple[int, int, UUID | None]],
) -> None:
    """A credit can be for an earlier period. All amounts are exact in micro-dollars."""
    log = EventLog()
    with command():
        payer = account(10**6)
        for name in LATE:
            payer.set_budget(name, 1, 0)
    now = NOW
    for hours, micros, key_id in steps:
        now += timedelta(hours=hours)
        step = charges(micros, 0, key_id) if micros > 0 else credits(-micros, key_id)
        later((now - NOW).total_seconds(), step)(payer)
    log.commit(payer)
    for name in LATE:
        first = name.period.first_day(now.date())
        late = (
            payer.key_uses.get(KEY, KeyUse()).charged_micros
            if first is None
            else charged_since(log, payer, first, name.key_id)
        )
        assert late == payer.budgets[name].at(now.date()).spent_micros
