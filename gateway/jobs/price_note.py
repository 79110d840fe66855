"""The most that a job costs, in words."""

from __future__ import annotations

from domain.core.durations import spoken
from domain.core.money import Toward, dollars
from domain.estimating.estimate import Estimate
from domain.jobs.guarantee import Guarantee
from domain.use_cases.spending_limits import CostRange


def price_note(
    priced: Estimate, cost: CostRange, factor: float, scope: str = "the job"
) -> str | None:
    """Return what limits the cost of an estimate; None if only the balance does.

    `factor` is the setting `guarantee_factor`.
    """
    most = f"You pay at most {dollars(cost.high_micros, Toward.UP)} for {scope}."
    if cost.capped:
        return f"{most} The job pauses before it costs more."
    guarantee = Guarantee.of(priced, factor)
    if guarantee is None:
        return None
    return (
        f"{most} If it takes longer than estimated, charges stop there and training goes on. "
        f"Only after {spoken(guarantee.seconds)}, {factor:g} times the longest estimate, the job "
        "saves a checkpoint and pauses."
    )
