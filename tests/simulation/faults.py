"""Faults in a simulation, and their cost."""

from __future__ import annotations

from dataclasses import dataclass

from tests.simulation.oracle import SegmentFacts
from tests.simulation.trainer import SimulatedTrainer


@dataclass
class Faults:
    """Sums over all segments; seconds by default."""

    difference_micros: int = 0
    """Difference between closed meters and the oracle."""

    below_zero: int = 0
    """Number of balances below zero or below their leases."""

    conflicts: int = 0
    overruns: int = 0
    """Trainers killed after their grace period, without a last checkpoint."""

    grace_seconds: int = 0
    unpaid_seconds: int = 0
    """GPU time beyond lease and grace, and unbilled time that correct clocks showed."""

    overbilled_seconds: int = 0
    """Billed time that never passed and was not credited, with at most one wrong clock."""

    unbilled_seconds: int = 0
    """GPU time that wrong clocks kept off the bill, at the platform's cost."""

    def count_lease(self, trainer: SimulatedTrainer, paid_seconds: int, limit_seconds: int) -> None:
        """Count a terminated trainer that had a lease, and grace to save."""
        self.grace_seconds += trainer.grace
        self.overruns += trainer.overruns and trainer.is_out_of_lease
        self.unpaid_seconds += max(0, trainer.ran - paid_seconds)
        self.unpaid_seconds += max(0, trainer.grace - limit_seconds)

    def count_bill(self, trainer: SimulatedTrainer, facts: SegmentFacts) -> None:
        assert facts.kept is not None
        if not trainer.has_two_wrong_clocks:
            self.overbilled_seconds += max(0, facts.kept - trainer.age)
        if trainer.overruns and trainer.is_out_of_lease:
            return  # work without a checkpoint is credited
        if trainer.has_good_clocks:
            self.unpaid_seconds += abs(trainer.ran - facts.billed)
        else:
            self.unbilled_seconds += max(0, trainer.ran - facts.billed)
