"""The state of an account as of a moment: its balance, reservations and keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from domain.access.api_key import ApiKey
from domain.billing.account import Account
from domain.billing.meter import Meter, SegmentEvent
from domain.core.recorded import Recorded
from domain.replay.job_state import reserved_micros
from domain.replay.stream import after, is_of


@dataclass
class KeyState:
    """An API key, and the times at which it was issued and revoked."""

    key: ApiKey
    issued_at: datetime
    revoked_at: datetime | None = None


@dataclass
class Totals:
    """Sums of an account's money since it was opened, in micro-dollars."""

    granted: int = 0
    topped_up: int = 0
    refunded: int = 0
    charged: int = 0
    reversed: int = 0


@dataclass
class AccountState:
    """An account before or after its opening, folded from its, its keys' and meters' events."""

    account: Account | None = None
    totals: Totals = field(default_factory=Totals)
    keys: dict[UUID, KeyState] = field(default_factory=dict[UUID, KeyState])
    meters: dict[UUID, Meter] = field(default_factory=dict[UUID, Meter])

    def apply(self, item: Recorded) -> None:
        """Apply the next event; ignore other aggregates. Raise BrokenStream if it does not fit."""
        id = item.event.originator_id
        match item.event:
            case SegmentEvent():
                self.meters[id] = after(Meter, self.meters.get(id), item)
            case event if is_of(ApiKey, event):
                self._apply_to_key(item)
            case event if is_of(Account, event):
                self.account = after(Account, self.account, item)
                self._add_up(item)
            case _:
                pass

    @property
    def open_meters(self) -> list[Meter]:
        """The meters that reserve money, in the order in which they were opened."""
        return [meter for meter in self.meters.values() if reserved_micros(meter) > 0]

    def _apply_to_key(self, item: Recorded) -> None:
        event = item.event
        known = self.keys.get(event.originator_id)
        key = after(ApiKey, known and known.key, item)
        if known is None:
            known = self.keys[key.id] = KeyState(key, event.timestamp)
        if key.revoked and known.revoked_at is None:
            known.revoked_at = event.timestamp

    def _add_up(self, item: Recorded) -> None:
        match item.event:
            case Account.CreditGranted(amount_micros=amount):
                self.totals.granted += amount
            case Account.ToppedUp(amount_micros=amount):
                self.totals.topped_up += amount
            case Account.TopUpWithheld(amount_micros=amount):
                self.totals.refunded += amount
            case Account.TopUpRestored(amount_micros=amount):
                self.totals.refunded -= amount
            case Account.UsageSettled(captured_micros=captured):
                self.totals.charged += captured
            case Account.ChargeReversed(amount_micros=amount):
                self.totals.reversed += amount
            case _:
                pass
