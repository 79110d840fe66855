"""Rules of the product that are broken on purpose, to show that the simulation finds each."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any
from unittest.mock import patch

from eventsourcing.persistence import IntegrityError

import infrastructure.bus.consumer
import services.billing.settlement
from infrastructure.bus.event_handlers import HandlerEffect
from tests.simulation.control_plane.store import StoreConnection
from tests.simulation.control_plane.story import Broken


@contextmanager
def billing_by_the_clock() -> Generator[None]:
    """Bill the time since the launch, without evidence that the trainer works."""

    def by_clock(shown_seconds: float, bound_at: datetime | None, now: datetime) -> int:
        del shown_seconds
        return 0 if bound_at is None else max(0, int((now - bound_at).total_seconds()))

    with patch("services.billing.ticker.elapsed_seconds", by_clock):
        yield


@contextmanager
def skipping_a_position() -> Generator[None]:
    """Apply a batch although an event before it is missing."""
    with patch.object(infrastructure.bus.consumer, "_is_gapless", lambda position, envelopes: True):
        yield


@contextmanager
def acknowledging_before_the_commit() -> Generator[None]:
    """Save that an event is handled, and then its effect."""

    def handle(self: Any, item: Any, tracking: Any) -> None:
        if tracking is not None and self.position() < tracking.notification_id:
            with suppress(IntegrityError):  # saved before, but the answer was lost
                self._log.process_recorder.insert_tracking(tracking)
        real(self, item, None)

    real: Any = HandlerEffect._handle_and_save
    with patch.object(HandlerEffect, "_handle_and_save", handle):
        yield


@contextmanager
def two_leaders() -> Generator[None]:
    """Let a former leader save events."""
    with patch.object(StoreConnection, "leads", lambda self, leader: True):
        yield


@contextmanager
def losing_a_lease() -> Generator[None]:
    """Extend leases without reserving their price."""

    def extend(account: Any, running: Any, policy: Any, at_most: int) -> Any:
        real(account, running, policy, at_most)
        return services.billing.settlement.Micros()

    real = services.billing.settlement._extend_leases
    with patch.object(services.billing.settlement, "_extend_leases", extend):
        yield


BROKEN_RULES: Mapping[str, Broken] = {
    "bill-from-the-clock": billing_by_the_clock,
    "skip-a-position": skipping_a_position,
    "acknowledge-before-commit": acknowledging_before_the_commit,
    "two-leaders": two_leaders,
    "lost-lease": losing_a_lease,
}
"""The broken rules by name."""
