"""The bench of the meter: right on the real code, and loud when that is wrong."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner, Result

import domain.billing.meter
from deploy.bench.commands import commands
from services.billing import settlement


def run(minutes: int) -> Result:
    return CliRunner().invoke(commands, ["meter-truth", "--minutes", str(minutes), "--seed", "7"])


def figure(result: Result, name: str) -> int:
    found = re.search(rf"([\d,]+)  {re.escape(name)}$", result.output, re.MULTILINE)
    assert found is not None, result.output
    return int(found[1].replace(",", ""))


@pytest.mark.full
def test_twenty_thousand_minutes_with_faults_differ_by_nothing() -> None:
    result = run(20_000)
    assert result.exit_code == 0, result.output
    assert figure(result, "job-minutes") >= 20_000
    for fault in ("version conflicts", "crashes", "wrong reports", "grace seconds"):
        assert figure(result, fault) > 0
    assert figure(result, "difference from the oracle, micro-dollars") == 0
    assert figure(result, "unpaid seconds") == 0
    assert figure(result, "times a balance was below zero") == 0


def test_another_rounding_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(rate_micros_per_hour: int, seconds: int) -> int:
        return rate_micros_per_hour * seconds // 3600

    monkeypatch.setattr(domain.billing.meter, "charge_micros", cut_off)
    result = run(3000)
    assert result.exit_code == 1
    assert figure(result, "difference from the oracle, micro-dollars") > 0


def test_minutes_that_nobody_bills_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlement, "_post_minutes", lambda running, policy: (0, 0))
    result = run(3000)
    assert result.exit_code == 1
    assert figure(result, "difference from the oracle, micro-dollars") > 0
