"""A suspension pauses a running job with a checkpoint, and a reinstated account resumes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.demo.account import acting_for_the_demo
from domain.billing.suspension import SuspensionReason
from gateway.cli.client import Refused
from services.projector.audit import audit
from tests.polling import eventually
from tests.running import TIMEOUT_SECONDS, EcoLinkUnderTest

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]


def test_a_suspended_account_pauses_and_a_reinstated_one_goes_on(
    ecolink: EcoLinkUnderTest, tmp_path: Path
) -> None:
    with ecolink.newcomer() as theirs:
        first = theirs.approve(theirs.dataset(tmp_path, examples=20), epochs=1)
        model = theirs.await_end(first)["model"]
        theirs.client.post(f"/models/{model}/deploy", {})
        deployment = f"/models/{model}/deployment"
        eventually(lambda: theirs.client.get(deployment)["status"] == "active", TIMEOUT_SECONDS)

        path = theirs.approve(
            theirs.dataset(tmp_path, examples=100),
            epochs=100,
            gradient_accumulation=1,
            save_steps=1000,
        )
        theirs.await_events(path, "TrainingStarted", 1)
        account_id, before = theirs.account.account_id, theirs.balance_micros()
        with acting_for_the_demo(ecolink.settings) as use_cases:
            use_cases.suspend(account_id, SuspensionReason.PAYMENT)
        paused = theirs.await_status(path, "paused")
        assert paused["pause_reason"] == "suspended"
        (saved,) = theirs.events(path, "CheckpointSaved")
        assert saved["step"] == paused["step"]
        assert 0 < theirs.balance_micros() <= before
        for command in (f"{path}/resume", f"/models/{model}/deploy", "/keys"):
            with pytest.raises(Refused) as refused:
                theirs.client.post(command, {})
            assert refused.value.problem["code"] == "account_suspended"
        assert theirs.client.get(deployment)["status"] == "active"

        with acting_for_the_demo(ecolink.settings) as use_cases:
            use_cases.reinstate(account_id)
        theirs.client.post(f"{path}/resume", {})
        (resumed,) = theirs.await_events(path, "ResumeCertified", 1)
        assert resumed["step"] == saved["step"]
        theirs.client.post(f"{path}/cancel", {})
        theirs.await_status(path, "cancelled")
    assert audit(ecolink.settings).differences == []
