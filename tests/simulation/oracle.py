"""What every account owes, computed once more from plain facts; it knows nothing of the domain.

A fact is an integer that the simulated world saw: how long a segment had paid for, what its
trainer had shown, what the clock had seen, where its last checkpoint was. The rules are those of
the statement, written down a second time, so that a mistake in the first is seen.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field


def cost(rate_micros_per_hour: int, seconds: int) -> int:
    """Micro-dollars of some seconds from the start of a segment on, half a micro rounded up."""
    whole, rest = divmod(rate_micros_per_hour * seconds, 3600)
    return whole + (1 if rest >= 1800 else 0)


@dataclass
class SegmentFacts:
    """One segment's bill so far, seconds of segment time."""

    account: Hashable
    rate: int
    paid: int = 0
    billed: int = 0
    kept: int | None = None  # what a credit left of the bill
    closed: bool = False

    @property
    def charged(self) -> int:
        """Micro-dollars that its minutes cost."""
        return cost(self.rate, self.billed)

    @property
    def credited(self) -> int:
        """Micro-dollars that were given back."""
        return 0 if self.kept is None else self.charged - cost(self.rate, self.kept)

    @property
    def held(self) -> int:
        """Micro-dollars that its lease holds."""
        return 0 if self.closed else cost(self.rate, self.paid) - self.charged


@dataclass
class Oracle:
    """Every account's money from facts alone; `minute` is the length of a metered one, seconds."""

    minute: int
    paid_in: dict[Hashable, int] = field(default_factory=dict)
    segments: dict[Hashable, SegmentFacts] = field(default_factory=dict)
    _of_account: dict[Hashable, set[Hashable]] = field(default_factory=dict)
    _spent: dict[Hashable, int] = field(default_factory=dict)  # by segments that are forgotten

    def pay_in(self, account: Hashable, micros: int) -> None:
        """An account was topped up or given credit."""
        self.paid_in[account] = self.paid_in.get(account, 0) + micros

    def open(self, segment: Hashable, account: Hashable, rate: int) -> None:
        """A segment has its GPUs, at a rate for all of them, micro-dollars per hour."""
        assert segment not in self.segments, "a segment has one meter"
        self.segments[segment] = SegmentFacts(account, rate)
        self._of_account.setdefault(account, set()).add(segment)

    def lease(self, segment: Hashable, paid: int) -> None:
        """A segment may run until it has used this much time in all."""
        facts = self.segments[segment]
        assert paid > facts.paid, "a lease only grows"
        facts.paid = paid

    def tick(self, segment: Hashable, shown: int, clock: int) -> None:
        """A tick saw what the trainer had shown and what the clock had seen: whole minutes are due.

        Of a lease that is used up all is due.
        """
        facts = self.segments[segment]
        seen = max(0, min(shown, clock))
        due = facts.paid if seen >= facts.paid else seen // self.minute * self.minute
        facts.billed = max(facts.billed, due)

    def end(self, segment: Hashable, shown: int, clock: int, kept: int) -> None:
        """A segment is over: every second is due, and what the platform lost is given back.

        `kept` is the segment time in its last checkpoint, or all of it if the platform lost none;
        none of it can be later than the end.
        """
        facts = self.segments[segment]
        assert not facts.closed, "a segment ends once"
        facts.billed = max(facts.billed, min(max(0, min(shown, clock)), facts.paid))
        facts.closed = True
        facts.kept = min(kept, facts.billed)

    def balance(self, account: Hashable) -> int:
        """What an account has, micro-dollars."""
        spent = self._spent.get(account, 0) + sum(
            facts.charged - facts.credited for facts in self._segments_of(account)
        )
        return self.paid_in.get(account, 0) - spent

    def reserved(self, account: Hashable) -> int:
        """What an account's leases hold, micro-dollars."""
        return sum(facts.held for facts in self._segments_of(account))

    def forget(self, segment: Hashable) -> None:
        """Keep nothing of a closed segment but what it cost."""
        facts = self.segments.pop(segment)
        assert facts.closed
        self._of_account[facts.account].discard(segment)
        self._spent[facts.account] = (
            self._spent.get(facts.account, 0) + facts.charged - facts.credited
        )

    def _segments_of(self, account: Hashable) -> list[SegmentFacts]:
        return [self.segments[segment] for segment in self._of_account.get(account, ())]
