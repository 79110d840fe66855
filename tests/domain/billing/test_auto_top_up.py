"""Automatic top-ups: when a charge is due, and what ends them."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from domain.billing.auto_top_up import AutoTopUp, AutoTopUpEnd, AutoTopUpRule, SavedCard
from domain.billing.card_payment import CardFailure
from domain.core.aggregate import Cause, because
from domain.core.errors import Invalid, WrongState
from tests.builders.commands import NOW, command
from tests.builders.examples import ACCOUNT_ID

DOLLAR = 1_000_000
CARD = SavedCard(customer="cus_1", payment_method="pm_1")
RULE = AutoTopUpRule(
    threshold_micros=10 * DOLLAR, amount_micros=25 * DOLLAR, month_max_micros=60 * DOLLAR
)


def enabled(rule: AutoTopUpRule = RULE) -> AutoTopUp:
    with command():
        made = AutoTopUp.save_first_card(ACCOUNT_ID, CARD)
        made.set_rule(rule)
    return made


def is_due(given: AutoTopUp, balance_micros: int, now: datetime = NOW) -> bool:
    with because(Cause("test", "due", now)):
        return given.due(balance_micros)


def charge(given: AutoTopUp, failure: CardFailure | None = None) -> None:
    with command():
        given.end(given.start(), RULE.amount_micros, failure)


def test_a_charge_is_due_below_the_threshold_and_one_at_a_time() -> None:
    given = enabled()
    assert not is_due(given, 10 * DOLLAR)
    assert is_due(given, 10 * DOLLAR - 1)
    with command():
        first = given.start()
    assert not is_due(given, 0)
    with command():
        given.end(first, RULE.amount_micros, None)
        given.end(first, RULE.amount_micros, CardFailure.DECLINED)  # a late, second answer
    assert is_due(given, 0)
    assert given.enabled
    with command():
        assert given.start() != first


def test_the_monthly_maximum_bounds_the_charges_of_a_month() -> None:
    given = enabled()
    for _ in range(2):
        charge(given)
    assert not is_due(given, 0)
    next_month = NOW.replace(day=1) + timedelta(days=32)
    assert is_due(given, 0, next_month)
    assert given.month_micros_at(next_month) == 0


def test_a_clock_that_steps_back_over_a_month_opens_no_second_maximum() -> None:
    given, first = enabled(), NOW.replace(day=1)
    for moment in (first, first - timedelta(days=2)):
        with because(Cause("test", "charge", moment)):
            given.end(given.start(), RULE.amount_micros, None)
    assert not is_due(given, 0, first - timedelta(days=2))
    assert not is_due(given, 0, first)
    assert is_due(given, 0, first + timedelta(days=32))


@pytest.mark.parametrize(
    ("failure", "end"),
    [
        (CardFailure.DECLINED, AutoTopUpEnd.DECLINED),
        (CardFailure.AUTHENTICATION_REQUIRED, AutoTopUpEnd.AUTHENTICATION_REQUIRED),
        (CardFailure.EXPIRED, AutoTopUpEnd.FAILED),
    ],
)
def test_a_failed_charge_turns_top_ups_off_and_counts_nothing(
    failure: CardFailure, end: AutoTopUpEnd
) -> None:
    given = enabled()
    charge(given, failure)
    assert (given.enabled, given.ended, given.month_micros) == (False, end, 0)
    assert not is_due(given, 0)
    with command():
        given.set_rule(RULE)
    assert (given.enabled, given.ended) == (True, None)


def test_without_a_card_there_are_no_charges() -> None:
    given = enabled()
    with command():
        given.remove_card()
        given.remove_card()
        with pytest.raises(WrongState):
            given.set_rule(RULE)
    assert (given.enabled, given.ended) == (False, AutoTopUpEnd.OWNER)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"threshold_micros": 0}, "threshold"),
        ({"amount_micros": 1}, "amount"),
        ({"month_max_micros": 24 * DOLLAR}, "month_max"),
    ],
)
def test_a_rule_that_charges_nothing_is_refused(change: dict[str, int], field: str) -> None:
    with pytest.raises(Invalid) as refusal:
        enabled(RULE.model_copy(update=change))
    assert refusal.value.field == field
