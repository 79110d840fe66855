"""Progress: how long a running segment will still take, for those who wait for its GPUs."""

from __future__ import annotations

from collections.abc import Iterable

from domain.estimate import Estimate
from domain.phases import Phase

OVERTIME_SHARE = 0.1
"""What is still expected of a phase that has outlasted its estimate, as a share of the estimate."""

PRIOR_SHARE = 0.1
"""Share of the steps after which what was measured weighs as much as what was estimated."""

START_UP = (Phase.IMAGE_PULL, Phase.MODEL_LOAD, Phase.DATASET_PREP)


def seconds_left(
    estimate: Estimate,
    elapsed_seconds: float,
    phase: Phase | None,
    step: int = 0,
    total_steps: int = 0,
) -> float:
    """Expected seconds until a segment ends; never negative.

    `estimate` is that of the segment: the approved one or, after a resume, that of the rest.
    `elapsed_seconds` count from the binding of its GPUs; `phase` is None while it starts up and
    nobody knows how far it is. `step` of `total_steps` are the optimizer steps done, over all
    segments.
    """
    order = list(Phase)
    here = START_UP if phase is None else (phase,)
    earlier = order[: order.index(here[0])]
    later = order[order.index(here[-1]) + 1 :]
    in_phase = max(0.0, elapsed_seconds - _typical_seconds(estimate, earlier))
    if phase is Phase.TRAINING and total_steps > 0:
        left = _training_left(estimate, in_phase, step, total_steps)
    else:
        typical = _typical_seconds(estimate, here)
        left = max(typical - in_phase, OVERTIME_SHARE * typical)
    return left + _typical_seconds(estimate, later)


def _typical_seconds(estimate: Estimate, phases: Iterable[Phase]) -> float:
    return sum(estimate.typical_seconds(each) for each in phases)


def _training_left(estimate: Estimate, in_phase: float, step: int, total_steps: int) -> float:
    """Seconds of the steps that are left, by the estimated pace and that of the steps done."""
    left = max(0, total_steps - step)
    if estimate.total_steps == 0 or left == 0:
        return 0.0
    began_at = max(0, total_steps - estimate.total_steps)
    done = max(0, step - began_at)
    pace = estimate.typical_seconds(Phase.TRAINING) / estimate.total_steps
    if pace == 0.0:
        return 0.0
    # The step in progress is half done on average, once its time has come.
    begun = min(0.5, max(0.0, in_phase / pace - done))
    prior = PRIOR_SHARE * estimate.total_steps
    return (left - begun) * (prior * pace + in_phase) / (prior + done + begun)
