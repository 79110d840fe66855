"""Two jobs drain one balance, pause at zero, and go on after a top-up; nothing is unpaid."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.demo.account import top_up
from deploy.demo.autopause import AutoPause
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from projections.billing_ledger import balances
from services.projector.audit import audit
from tests.polling import eventually
from tests.running import GPUS, EcoLinkUnderTest, running_ecolink

pytestmark = pytest.mark.timeout(1500)

HYPERPARAMETERS = {"epochs": 100, "gradient_accumulation": 1, "save_steps": 200}


@pytest.fixture
def ecolink(tmp_path: Path) -> Iterator[EcoLinkUnderTest]:
    """A stack whose leases are short beside the jobs, so that neither holds the whole balance."""
    home = tmp_path / "home"
    home.mkdir()
    settings = Settings(
        home=home,
        heartbeat_seconds=0.2,
        meter_minute_seconds=5,
        lease_seconds=20,
        guarantee_factor=0,  # only the balance limits the cost
        lease_extension_seconds=5,
    )
    with running_ecolink(tmp_path, settings) as under_test:
        yield under_test


@pytest.mark.full
def test_two_jobs_drain_one_balance_and_go_on(ecolink: EcoLinkUnderTest, tmp_path: Path) -> None:
    # One job alone first: what it takes calibrates the estimate that the balance is made from.
    known = ecolink.approve(ecolink.dataset(tmp_path, examples=100), **HYPERPARAMETERS)
    assert ecolink.await_end(known)["status"] == "registered"
    (scored,) = ecolink.events(known, "EstimateScored")
    assert scored["actual_micros"] == ecolink.client.get(known)["cost"]["micros"]

    with ecolink.newcomer(dollars=0) as theirs:
        form = {
            "dataset": theirs.dataset(tmp_path, examples=100),
            "base_model": "tiny",
            **GPUS,
            "hyperparameters": HYPERPARAMETERS,
        }

        def hand(micros: int, reference: str) -> None:
            """The last one with money to spare: a busy machine takes longer than was estimated."""
            spare = 5 if reference == "second" else 1
            top_up(ecolink.settings, theirs.account.account_id, spare * micros, reference)

        bills = AutoPause(theirs.client, hand, print).run(form)
        eventually(lambda: theirs.client.get("/account")["reserved"]["micros"] == 0)
        for bill in bills:
            paused = theirs.events(f"/jobs/{bill.job['id']}", "JobPaused")
            assert [each["reason"] for each in paused] == ["balance"]

    for bill in bills:
        assert bill.charged_micros == bill.expected_micros
        assert bill.unpaid_seconds == 0
        # One more where billing came too late with a lease: it goes on without a pause.
        assert bill.job["segment"] >= 2
        assert bill.grace_seconds <= ecolink.settings.grace_seconds
    with connect(ecolink.settings) as connection:
        ledger = balances(connection)
    assert sum(ledger.values()) == 0
    assert all(micros >= 0 for name, micros in ledger.items() if name.startswith("customer:"))
    assert audit(ecolink.settings).differences == []
