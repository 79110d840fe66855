"""A killed process continues from what is stored, and nothing is charged twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from uuid import UUID

import pytest

from deploy.processes import environment
from domain.billing.token_meter import TokenMeter
from domain.core.identity import token_meter_id
from extensions.synthesis.domain.synthesis import SynthesisStatus
from tests.extensions.synthesis.process.bench import QUICK, RATES, Bench
from tests.extensions.synthesis.process.killed import POINTS
from tests.scripted_model import Scripted

pytestmark = pytest.mark.full

COUNTS = {"after a batch is stored": 2, "after a batch is recorded": 1}
"""Number of the call that kills. Other points use the last column."""


def run_until_killed(bench: Bench, point: str, count: int, id: UUID, url: str) -> None:
    command = [sys.executable, "-m", "tests.extensions.synthesis.process.killed", point, str(count)]
    with bench.billing():
        process = subprocess.run(
            [*command, str(id), url], env=os.environ | environment(bench.settings), check=False
        )
    assert process.returncode == -signal.SIGKILL


QUICKLY = ("after an answer is stored", "after a batch is stored")
"""The points that every test run has."""


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(each, id=each, marks=() if each in QUICKLY else pytest.mark.full)
        for each in POINTS
    ],
)
def test_nothing_is_paid_twice(bench: Bench, model: Scripted, point: str) -> None:
    id = bench.approve(bench.deployed())
    count = 1 if "examples" in point else COUNTS.get(point, 5)
    run_until_killed(bench, point, count, id, model.url)
    run = bench.work(id, model.url)
    assert (run.status, run.counts.accepted) == (SynthesisStatus.REVIEWING, 20)
    assert run.counts.attempts == 20
    assert bench.account.balance_micros == 5_000_000 - RATES.charge_micros(run.usage)
    assert bench.account.reserved_micros == 0
    metered = [
        each
        for each in bench.log.events.get(token_meter_id(id))
        if isinstance(each, TokenMeter.TokensMetered)
    ]
    assert sum(each.amount_micros for each in metered) == run.charged_micros
    assert len({each.batch for each in metered}) == len(metered)
    repeated = sum(Counter(model.prompts).values()) - len(set(model.prompts))
    assert repeated <= QUICK.at_once, "only requests in progress are repeated"
