"""What went wrong in a simulation, and what it cost whom."""

from __future__ import annotations

from dataclasses import dataclass

from tests.simulation.oracle import SegmentFacts
from tests.simulation.trainer import SimulatedTrainer


@dataclass
class Faults:
    """Sums over all segments so far, seconds if nothing else is said."""

    difference_micros: int = 0
    """Between closed meters and the oracle."""

    below_zero: int = 0
    """How often a balance was below zero, or below what its leases hold."""

    conflicts: int = 0
    overruns: int = 0
    """How often a trainer was ended after its grace, without its last checkpoint."""

    grace_seconds: int = 0
    unpaid_seconds: int = 0
    """GPU time beyond lease and grace, and time that good clocks showed and nobody billed."""

    overbilled_seconds: int = 0
    """Time that was billed, not given back and never passed, where one clock at most was wrong."""

    unbilled_seconds: int = 0
    """GPU time that wrong clocks kept from the bill; the platform's loss."""

    def count_lease(self, trainer: SimulatedTrainer, paid_seconds: int, limit_seconds: int) -> None:
        """A trainer is gone; it had a lease, and some grace to save."""
        self.grace_seconds += trainer.grace
        self.overruns += trainer.overruns and trainer.is_out_of_lease
        self.unpaid_seconds += max(0, trainer.ran - paid_seconds)
        self.unpaid_seconds += max(0, trainer.grace - limit_seconds)

    def count_bill(self, trainer: SimulatedTrainer, facts: SegmentFacts) -> None:
        """What a segment was billed is final."""
        assert facts.kept is not None
        if not trainer.has_two_wrong_clocks:
            self.overbilled_seconds += max(0, facts.kept - trainer.age)
        if trainer.overruns and trainer.is_out_of_lease:
            return  # all that no checkpoint holds is given back
        if trainer.has_good_clocks:
            self.unpaid_seconds += abs(trainer.ran - facts.billed)
        else:
            self.unbilled_seconds += max(0, trainer.ran - facts.billed)
