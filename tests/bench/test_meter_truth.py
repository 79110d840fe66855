"""The meter-truth benchmark finds no error in the code, and detects injected errors."""

from __future__ import annotations

import pytest

import domain.billing.meter
from services.billing import settlement
from tests.bench.meter_truth import DIFFERENCE, MeterTruth


def run(minutes: int) -> MeterTruth:
    truth = MeterTruth(seed=7)
    truth.run(minutes)
    return truth


@pytest.mark.full
def test_bills_of_twenty_thousand_minutes_with_faults_are_exact() -> None:
    truth = run(20_000)
    assert truth.platform.books.billed_seconds >= 20_000 * 60
    faults = truth.platform.faults
    assert faults.conflicts > 0
    assert faults.grace_seconds > 0
    assert min(truth.happened[fault] for fault in ("crashes", "wrong reports")) > 0
    assert not any(truth.errors.values()), truth.errors


@pytest.mark.full
def test_a_different_rounding_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    def truncate(rate_micros_per_hour: int, seconds: int) -> int:
        return rate_micros_per_hour * seconds // 3600

    monkeypatch.setattr(domain.billing.meter, "charge_micros", truncate)
    assert run(3000).errors[DIFFERENCE] > 0


@pytest.mark.full
def test_unbilled_minutes_are_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        settlement, "_post_minutes", lambda running, policy: (settlement.Micros(), 0)
    )
    assert run(3000).errors[DIFFERENCE] > 0
