"""The time that the ended segments of a job used, and the price of that time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from domain.core.money import charge_micros, charge_within
from domain.estimating.progress import START_UP
from domain.jobs.segments import SegmentEnding
from domain.training.checkpoint import SavedCheckpoint
from domain.training.phases import Phase


@dataclass(frozen=True)
class PaidTime:
    """Time of a segment, less time lost by the platform, with the rate and the limit of charges."""

    rate_micros_per_hour: int
    seconds: int
    limit_micros: int | None = None  # rest of the guarantee; None: no guarantee

    @property
    def micros(self) -> int:
        """Charge for the time, in micro-dollars."""
        return charge_within(self.rate_micros_per_hour, self.seconds, self.limit_micros)


@dataclass(frozen=True)
class MeasuredSteps:
    """Saved optimizer steps of ended segments, and the seconds of training that they took.

    A step that two segments trained counts twice, as its time does. Steps and time after the last
    checkpoint of a segment do not count.
    """

    steps: int = 0
    seconds: float = 0.0

    def after(self, steps: int, saved_seconds: int, ending: SegmentEnding) -> MeasuredSteps:
        """Return a copy that includes the steps of a segment up to its last checkpoint."""
        start = sum(ending.phase_seconds.get(phase, 0.0) for phase in START_UP)
        if steps <= 0 or saved_seconds <= start or Phase.TRAINING not in ending.phase_seconds:
            return self  # the segment saved no step, or reported no times
        return MeasuredSteps(self.steps + steps, self.seconds + saved_seconds - start)


@dataclass(frozen=True)
class Usage:
    """The time that all ended segments of a job used."""

    # Paid time by segment number.
    paid: Mapping[int, PaidTime] = field(default_factory=dict[int, PaidTime])
    segments: int = 0  # number of segments that used time
    phase_seconds: Mapping[Phase, float] = field(default_factory=dict[Phase, float])

    @property
    def paid_seconds(self) -> int:
        """Seconds of all segments, less those lost by the platform."""
        return sum(each.seconds for each in self.paid.values())

    @property
    def paid_micros(self) -> int:
        """Charges for the paid seconds, in micro-dollars."""
        return sum(each.micros for each in self.paid.values())

    @property
    def price_micros(self) -> int:
        """Price of the paid seconds, also of those that the guarantee covers, in micro-dollars."""
        return sum(
            charge_micros(each.rate_micros_per_hour, each.seconds) for each in self.paid.values()
        )

    def after(self, segment: int, paid: PaidTime, ending: SegmentEnding) -> Usage:
        """Return a copy that includes a segment that ended."""
        phases = dict(self.phase_seconds)
        for phase, seconds in ending.phase_seconds.items():
            phases[phase] = phases.get(phase, 0.0) + seconds
        return Usage(
            paid={**self.paid, segment: paid},
            segments=self.segments + (ending.elapsed_seconds > 0),
            phase_seconds=phases,
        )

    def until(self, newest: SavedCheckpoint | None) -> Usage:
        """Return a copy in which the user pays only for work up to a checkpoint; None: for none."""
        last, seconds = (newest.segment, newest.elapsed_seconds) if newest else (0, 0)
        paid = {
            number: replace(each, seconds=min(each.seconds, seconds if number == last else 0))
            for number, each in self.paid.items()
            if number >= last
        }
        return replace(self, paid={**self.paid, **paid})
