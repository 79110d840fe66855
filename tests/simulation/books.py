"""Money in a log, summed from its stored rows without the domain's classes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

from eventsourcing.persistence import StoredEvent

MONEY = frozenset(("CreditGranted", "ToppedUp", "UsageSettled", "MinuteMetered", "ChargeReversed"))


@dataclass
class Books:
    """Free and reserved money of each account, and the billed seconds of each segment."""

    free: Counter[str] = field(default_factory=Counter)
    reserved: Counter[str] = field(default_factory=Counter)
    reached: dict[Hashable, int] = field(default_factory=dict)
    charged: Counter[Hashable] = field(default_factory=Counter)
    billed_seconds: int = 0
    minutes: int = 0
    billed_twice: int = 0
    """Minutes that did not start at the end of the previous one."""

    def post(self, row: StoredEvent) -> None:
        if row.topic not in MONEY:
            return
        state = json.loads(row.state)
        account: str = state["account_id"]
        if row.topic == "MinuteMetered":
            self._bill(row.originator_id, account, state)
        elif row.topic == "UsageSettled":
            # The minutes of the same save have the same money, one by one.
            self.free[account] -= state["reserved_micros"]
            self.reserved[account] += state["reserved_micros"]
        else:
            self.free[account] += state["amount_micros"]

    def _bill(self, meter: Hashable, account: str, state: dict[str, int]) -> None:
        begin, end = state["from_seconds"], state["to_seconds"]
        self.billed_twice += begin != self.reached.get(meter, 0) or end <= begin
        self.reached[meter] = end
        self.charged[meter] += state["amount_micros"]
        self.reserved[account] -= state["amount_micros"]
        self.billed_seconds += end - begin
        self.minutes += 1

    def forget(self, meter: Hashable) -> tuple[int, int]:
        """Drop a closed meter; return (seconds, micro-dollars) billed in total."""
        return self.reached.pop(meter, 0), self.charged.pop(meter, 0)
