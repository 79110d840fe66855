"""Compute what every account owes from plain facts, independently of the domain.

A fact is an integer of the simulation: the paid time of a segment, the time that its trainer
reported, the time of the clock, the time of its last checkpoint. The rules are those of the
statement, written a second time, so that an error in the first shows.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field


def cost(rate_micros_per_hour: int, seconds: int) -> int:
    """Micro-dollars of the first seconds of a segment, rounded half up."""
    whole, rest = divmod(rate_micros_per_hour * seconds, 3600)
    return whole + (1 if rest >= 1800 else 0)


@dataclass
class SegmentFacts:
    """The bill of one segment so far, in seconds of segment time."""

    account: Hashable
    rate: int
    paid: int = 0
    billed: int = 0
    kept: int | None = None  # billed time after a credit
    closed: bool = False

    @property
    def charged(self) -> int:
        return cost(self.rate, self.billed)

    @property
    def credited(self) -> int:
        """Micro-dollars given back."""
        return 0 if self.kept is None else self.charged - cost(self.rate, self.kept)

    @property
    def held(self) -> int:
        """Micro-dollars reserved by its lease."""
        return 0 if self.closed else cost(self.rate, self.paid) - self.charged


@dataclass
class Oracle:
    """Every account's money from facts alone. `minute` is the length of a metered minute,
    seconds."""

    minute: int
    paid_in: dict[Hashable, int] = field(default_factory=dict)
    segments: dict[Hashable, SegmentFacts] = field(default_factory=dict)
    _of_account: dict[Hashable, set[Hashable]] = field(default_factory=dict)
    _spent: dict[Hashable, int] = field(default_factory=dict)  # of forgotten segments

    def pay_in(self, account: Hashable, micros: int) -> None:
        """Record a top-up or a credit."""
        self.paid_in[account] = self.paid_in.get(account, 0) + micros

    def open(self, segment: Hashable, account: Hashable, rate: int) -> None:
        """Record that a segment has its GPUs, at a rate for all of them, micro-dollars per hour."""
        assert segment not in self.segments, "a segment has one meter"
        self.segments[segment] = SegmentFacts(account, rate)
        self._of_account.setdefault(account, set()).add(segment)

    def lease(self, segment: Hashable, paid: int) -> None:
        """Record the segment time that is paid in total."""
        facts = self.segments[segment]
        assert paid > facts.paid, "a lease only grows"
        facts.paid = paid

    def tick(self, segment: Hashable, shown: int, clock: int) -> None:
        """Record the trainer's and the clock's time at a tick. Whole minutes are due.

        A used-up lease is due as a whole.
        """
        facts = self.segments[segment]
        seen = max(0, min(shown, clock))
        due = facts.paid if seen >= facts.paid else seen // self.minute * self.minute
        facts.billed = max(facts.billed, due)

    def end(self, segment: Hashable, shown: int, clock: int, kept: int) -> None:
        """Record the end of a segment: every second is due, and lost work is credited.

        `kept` is the segment time in its last checkpoint, or all of it if nothing was lost. It
        cannot be later than the end.
        """
        facts = self.segments[segment]
        assert not facts.closed, "a segment ends once"
        facts.billed = max(facts.billed, min(max(0, min(shown, clock)), facts.paid))
        facts.closed = True
        facts.kept = min(kept, facts.billed)

    def balance(self, account: Hashable) -> int:
        spent = self._spent.get(account, 0) + sum(
            facts.charged - facts.credited for facts in self._segments_of(account)
        )
        return self.paid_in.get(account, 0) - spent

    def reserved(self, account: Hashable) -> int:
        return sum(facts.held for facts in self._segments_of(account))

    def forget(self, segment: Hashable) -> None:
        """Keep only the cost of a closed segment."""
        facts = self.segments.pop(segment)
        assert facts.closed
        self._of_account[facts.account].discard(segment)
        self._spent[facts.account] = (
            self._spent.get(facts.account, 0) + facts.charged - facts.credited
        )

    def _segments_of(self, account: Hashable) -> list[SegmentFacts]:
        return [self.segments[segment] for segment in self._of_account.get(account, ())]
