"""Progress: how long a running segment will still take, for those who wait for its GPUs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from domain.estimating.estimate import Estimate
from domain.training.phases import Phase

OVERTIME_SHARE = 0.1
"""What is still expected of a phase that has outlasted its estimate, as a share of the estimate."""

PRIOR_SHARE = 0.1
"""Share of the steps after which what was measured weighs as much as what was estimated."""

START_UP = (Phase.IMAGE_PULL, Phase.MODEL_LOAD, Phase.DATASET_PREP)


@dataclass(frozen=True)
class Steps:
    """Optimizer steps done, over all segments. Times count from the binding of the GPUs."""

    done: int = 0
    total: int = 0
    began_seconds: float | None = None  # when this segment began to train; None: as estimated
    last_seconds: float | None = None  # when this segment took its last step; None: not measured


def seconds_left(
    estimate: Estimate, elapsed_seconds: float, phase: Phase | None, steps: Steps = Steps()
) -> float:
    """Expected seconds until a segment ends; never negative, and never more between two steps.

    `estimate` is that of the segment: the approved one or, after a resume, that of the rest.
    `elapsed_seconds` count from the binding of its GPUs; `phase` is None while it starts up and
    nobody knows how far it is.
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
    """Seconds of the steps that are left, by the estimated pace and that of the steps done.

    They count down from the last step. A step that outlasts its time holds them, at those of the
    steps after it, until it is done: what it then took changes the pace.
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
