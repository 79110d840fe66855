"""The benchmark of spending limits finds no error in the code, and detects injected errors."""

from __future__ import annotations

from uuid import UUID

import pytest

from domain.billing.account import Account
from domain.billing.meter import Meter
from services.billing.settlement import MeteredSegment
from tests.bench.budgets import OVERSHOOT, LimitedTruth


def run(minutes: int, seed: int = 7) -> LimitedTruth:
    truth = LimitedTruth(seed, account_count=20)
    truth.run(minutes)
    return truth


def assert_within_limits(truth: LimitedTruth) -> None:
    happened = truth.platform.limits.happened
    assert not any(truth.errors.values()), truth.errors
    assert min(happened[f"pauses: {each}"] for each in ("max_cost", "budget", "balance")) > 0
    warnings = [f"warnings at {each}%" for each in (50, 80, 100)]
    assert min(happened[each + of_key] for each in warnings for of_key in ("", " of a key")) > 0
    assert truth.happened["limits raised"] > 0


def test_no_charge_exceeds_a_limit_and_every_pause_ends() -> None:
    assert_within_limits(run(2000))


@pytest.mark.full
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_charge_exceeds_a_limit_in_a_longer_run(seed: int) -> None:
    assert_within_limits(run(20_000, seed))


def test_a_lease_beyond_a_maximum_cost_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Meter, "limit_seconds", None)
    monkeypatch.setattr(MeteredSegment, "at_limit", lambda *_: False)
    assert run(2000).errors[OVERSHOOT] > 0


@pytest.mark.full
def test_a_lease_beyond_a_budget_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Account, "leasable_micros", Account.available_micros)
    assert run(2000).errors[OVERSHOOT] > 0


@pytest.mark.full
def test_a_lease_beyond_the_budget_of_a_key_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    left = Account.budget_left_micros

    def of_all_jobs(self: Account, key_id: UUID | None) -> int | None:
        return left(self, None) if key_id is None else None

    monkeypatch.setattr(Account, "budget_left_micros", of_all_jobs)
    assert run(2000).errors[OVERSHOOT] > 0
