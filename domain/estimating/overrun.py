"""Overruns: the time and cost of a job beyond its estimate, and the causes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from domain.core.durations import spoken
from domain.core.money import Toward, in_cents
from domain.core.value import Value
from domain.estimating.estimate import Estimate
from domain.estimating.progress import START_UP
from domain.training.phases import Phase

SLOWER = 1.15
"""Ratio of measured to estimated time above which steps or a start are slow."""

LEAST_START_SECONDS = 10.0
"""Minimum delay of a start, in seconds, to be a cause of an overrun."""


class Cause(StrEnum):
    """Causes of an overrun."""

    SLOW_STEPS = "slower_than_estimated"
    SLOW_START = "slow_start"
    CRASHES = "crashes"
    PAUSES = "pauses"
    WAITING = "waiting"


class Reason(Value):
    """A cause of an overrun, and a sentence with its figures."""

    cause: Cause
    sentence: str


class Overrun(Value):
    """Time and money that a job uses beyond the upper bound of its estimate."""

    seconds: int  # billed seconds beyond the upper bound; 0: the job is only late
    micros: int  # charges minus credits beyond the upper bound, both as shown in cents
    late_seconds: int  # elapsed seconds beyond the upper bound, including waits and pauses
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class Facts:
    """Facts about a job from the event log and its metrics. Durations are in seconds."""

    billed_seconds: float
    cost_micros: int
    since_approval: float  # until now, or until the job ended
    launches: int
    crashes: int
    start_seconds: float | None  # from the start of the last segment until it started training
    step_seconds: float | None  # mean step time of the last segment


def overrun(estimate: Estimate, facts: Facts) -> Overrun | None:
    """Return the overrun of a job; None if the job is within its estimate."""
    seconds = max(0, round(facts.billed_seconds) - estimate.high_seconds)
    micros = max(0, in_cents(facts.cost_micros) - in_cents(estimate.high_micros, Toward.UP))
    late = max(0, round(facts.since_approval) - estimate.high_seconds)
    if not (seconds or micros or late):
        return None
    return Overrun(
        seconds=seconds, micros=micros, late_seconds=late, reasons=tuple(_reasons(estimate, facts))
    )


def _reasons(estimate: Estimate, facts: Facts) -> Iterator[Reason]:
    if facts.step_seconds is not None and estimate.total_steps:
        expected = estimate.typical_seconds(Phase.TRAINING) / estimate.total_steps
        if expected > 0 and (ratio := facts.step_seconds / expected) > SLOWER:
            yield Reason(
                cause=Cause.SLOW_STEPS,
                sentence=f"Steps take {_seconds(facts.step_seconds)} each, {ratio:.1f} times the "
                f"estimated {_seconds(expected)}.",
            )
    start = sum(estimate.typical_seconds(each) for each in START_UP)
    least = max(SLOWER * start, start + LEAST_START_SECONDS)
    if facts.start_seconds is not None and facts.start_seconds > least:
        yield Reason(
            cause=Cause.SLOW_START,
            sentence=f"The start took {spoken(facts.start_seconds)} instead of the estimated "
            f"{spoken(start)}.",
        )
    if facts.crashes:
        yield Reason(
            cause=Cause.CRASHES,
            sentence=f"The job crashed {_times(facts.crashes)}. Each relaunch repeats the start "
            "and the steps since the last checkpoint.",
        )
    if (pauses := facts.launches - 1 - facts.crashes) > 0:
        yield Reason(
            cause=Cause.PAUSES,
            sentence=f"The job was resumed {_times(pauses)}. Each resume loads the model again.",
        )
    free = facts.since_approval - facts.billed_seconds
    if free > max(LEAST_START_SECONDS, 0.1 * estimate.high_seconds):
        yield Reason(
            cause=Cause.WAITING,
            sentence=f"The job was queued or paused for {spoken(free)}, free of charge.",
        )


def _seconds(value: float) -> str:
    return spoken(value) if value >= 10 else f"{value:.2g} s"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
