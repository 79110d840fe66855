"""Event handlers that reserve and bill the tokens of syntheses."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from domain.billing.account import Account
from domain.billing.key_use import Share
from domain.billing.token_meter import ReserveRefusal, TokenMeter
from domain.core.aggregate import Aggregate
from domain.core.event_log import EventLog
from domain.core.identity import token_meter_id
from extensions.synthesis.domain.synthesis import Synthesis
from infrastructure.bus.event_handlers import Handlers


def handlers(log: EventLog) -> Handlers:
    """Return the event handlers, by event."""
    tokens = TokenMetering(log)
    return {
        Synthesis.BatchStarted: tokens.on_batch_started,
        Synthesis.BatchCompleted: tokens.on_batch_completed,
    }


class TokenMetering:
    """Event handlers that reserve the highest price of a batch, and bill it when it ends."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def on_batch_started(self, event: Synthesis.BatchStarted) -> Sequence[Aggregate]:
        """Reserve the highest price of a batch, or refuse it. A free batch needs no meter."""
        if event.most_micros == 0:
            return []
        meter = self._meter(event.originator_id)
        if meter.batch >= event.batch:
            return []
        account = self._log.load(Account, event.account_id)
        if event.most_micros > account.leasable_micros_for(meter.key_id):
            poor = account.suspension is not None or not account.can_pay(event.most_micros)
            meter.refuse(event.batch, ReserveRefusal.BALANCE if poor else ReserveRefusal.BUDGET)
            return [meter]
        meter.reserve(event.batch, event.most_micros)
        _settle(account, meter.key_id, captured_micros=0, reserved_micros=event.most_micros)
        return [meter, account]

    def on_batch_completed(self, event: Synthesis.BatchCompleted) -> Sequence[Aggregate]:
        """Bill the tokens of a batch once, and release the rest of its reserve."""
        meter = self._log.find(TokenMeter, token_meter_id(event.originator_id))
        if meter is None or not meter.has_open(event.batch):
            return []
        account = self._log.load(Account, event.account_id)
        charge, released = meter.post(event.batch, event.usage)
        _settle(account, meter.key_id, captured_micros=charge, reserved_micros=-released)
        return [meter, account]

    def _meter(self, synthesis_id: UUID) -> TokenMeter:
        meter = self._log.find(TokenMeter, token_meter_id(synthesis_id))
        if meter is not None:
            return meter
        synthesis = self._log.load(Synthesis, synthesis_id)
        return TokenMeter.open(
            synthesis.account_id, synthesis_id, synthesis.plan.rates, synthesis.key_id
        )


def _settle(
    account: Account, key_id: UUID | None, *, captured_micros: int, reserved_micros: int
) -> None:
    keys = {} if key_id is None else {key_id: Share(captured_micros, reserved_micros)}
    account.settle(captured_micros=captured_micros, reserved_micros=reserved_micros, keys=keys)
