"""Remaining time of a running segment, from which the wait of queued jobs is derived."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from domain.estimating.estimate import Estimate
from domain.training.phases import Phase

OVERTIME_SHARE = 0.1
"""Share of a phase's estimate that is expected to remain after the phase has exceeded it."""

PRIOR_SHARE = 0.1
"""Share of the steps after which the measured pace weighs as much as the estimated pace."""

START_UP = (Phase.IMAGE_PULL, Phase.MODEL_LOAD, Phase.DATASET_PREP, Phase.REFERENCE)


@dataclass(frozen=True)
class Steps:
    """Optimizer steps of all segments. Times are in seconds since the pod's start."""

    done: int = 0
    total: int = 0
    began_seconds: float | None = None  # start of training in this segment; None: as estimated
    last_seconds: float | None = None  # end of the last step of this segment; None: not measured


def seconds_left(
    estimate: Estimate, elapsed_seconds: float, phase: Phase | None, steps: Steps = Steps()
) -> float:
    """Return the expected seconds until a segment ends. The value never rises between two steps.

    `estimate` is the approved estimate or, after a resume, the estimate of the remaining work.
    `elapsed_seconds` is the time since the pod's start. `phase` is None while the segment starts.
    """
    order = list(Phase)
    here = START_UP if phase is None else (phase,)
    earlier = order[: order.index(here[0])]
    later = order[order.index(here[-1]) + 1 :]
    began = _typical_seconds(estimate, earlier)
    if phase is Phase.TRAINING and steps.total > 0:
        if steps.began_seconds is not None:
            began = steps.began_seconds
        left = _training_left(estimate, elapsed_seconds - began, began, steps)
    else:
        typical = _typical_seconds(estimate, here)
        left = max(typical - max(0.0, elapsed_seconds - began), OVERTIME_SHARE * typical)
    return left + _typical_seconds(estimate, later)


def _typical_seconds(estimate: Estimate, phases: Iterable[Phase]) -> float:
    return sum(estimate.typical_seconds(each) for each in phases)


def _training_left(
    estimate: Estimate, in_phase: float, began_seconds: float, steps: Steps
) -> float:
    """Return the expected seconds of the remaining steps, from the estimated and measured pace.

    The value counts down from the last step. If a step takes longer than expected, the countdown
    stops at the expected time of the steps after it.
    """
    left = max(0, steps.total - steps.done)
    if estimate.total_steps == 0 or left == 0:
        return 0.0
    began_at = max(0, steps.total - estimate.total_steps)
    done = max(0, steps.done - began_at)
    estimated = estimate.typical_seconds(Phase.TRAINING) / estimate.total_steps
    if done == 0:
        taken = 0.0
    elif steps.last_seconds is None:
        taken = done * estimated
    else:
        taken = steps.last_seconds - began_seconds
    prior = PRIOR_SHARE * estimate.total_steps
    pace = (prior * estimated + max(0.0, taken)) / (prior + done)
    return max(left * pace - max(0.0, in_phase - taken), (left - 1) * pace)
