"""The webhooks process with a receiver that is killed again and again."""

from __future__ import annotations

from pathlib import Path

import pytest

from domain.core.event_log import EventLog
from infrastructure.settings import Settings
from tests.extensions.notifications.kills import Trial, run_trial

pytestmark = pytest.mark.full

SMALL = Trial(jobs=6, messages_per_job=5, kills=3, service_kills=1)
FULL = Trial(jobs=100, messages_per_job=10, kills=20, service_kills=5)


@pytest.mark.parametrize(
    "trial",
    [
        pytest.param(SMALL, id="small"),
        pytest.param(FULL, id="full", marks=[pytest.mark.full, pytest.mark.timeout(900)]),
    ],
)
def test_every_message_arrives_in_order_with_one_id_and_a_valid_signature(
    settings: Settings, log: EventLog, tmp_path: Path, trial: Trial
) -> None:
    outcome = run_trial(settings, log, tmp_path, trial)
    assert outcome.holds, outcome
    assert outcome.messages == trial.messages
