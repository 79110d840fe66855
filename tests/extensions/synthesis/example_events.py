"""A synthesis, for the test that repeated events change no read model."""

from __future__ import annotations

from uuid import uuid4

from domain.core.event_log import EventLog
from extensions.synthesis.domain.price import CostRange
from extensions.synthesis.domain.synthesis import Synthesis
from tests.builders.examples import ACCOUNT_ID
from tests.extensions.synthesis.domain.test_synthesis import PLAN


def add(log: EventLog) -> None:
    """Approve a synthesis."""
    cost = CostRange(low_micros=0, high_micros=9)
    log.commit(Synthesis.approve(uuid4(), ACCOUNT_ID, PLAN, cost, 9, None))
