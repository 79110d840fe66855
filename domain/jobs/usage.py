"""The time that the ended segments of a job used, and its price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from domain.core.money import charge_micros
from domain.jobs.segments import SegmentEnding
from domain.training.phases import Phase


@dataclass(frozen=True)
class PaidTime:
    """Seconds of a segment that the user pays for, at the segment's rate."""

    rate_micros_per_hour: int
    seconds: int


@dataclass(frozen=True)
class Usage:
    """The time that all ended segments used."""

    paid: Mapping[int, PaidTime] = field(default_factory=dict[int, PaidTime])  # by segment
    segments: int = 0  # number of segments that used time
    phase_seconds: Mapping[Phase, float] = field(default_factory=dict[Phase, float])

    @property
    def paid_seconds(self) -> int:
        """Seconds that the user pays for."""
        return sum(each.seconds for each in self.paid.values())

    @property
    def paid_micros(self) -> int:
        """Price of those seconds."""
        return sum(
            charge_micros(each.rate_micros_per_hour, each.seconds) for each in self.paid.values()
        )

    def after(self, segment: int, paid: PaidTime, ending: SegmentEnding) -> Usage:
        """Return the usage including an ended segment."""
        phases = dict(self.phase_seconds)
        for phase, seconds in ending.phase_seconds.items():
            phases[phase] = phases.get(phase, 0.0) + seconds
        return Usage(
            paid={**self.paid, segment: paid},
            segments=self.segments + (ending.elapsed_seconds > 0),
            phase_seconds=phases,
        )

    def reduced(self, segment: int, kept_seconds: int) -> Usage:
        """Return the usage with a lower limit on a segment's paid time, because work is lost."""
        before = self.paid.get(segment)
        if before is None:
            return self
        paid = replace(before, seconds=min(before.seconds, kept_seconds))
        return replace(self, paid={**self.paid, segment: paid})
