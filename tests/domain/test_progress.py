"""Progress: what a running segment will still take, from its estimate and what was seen of it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.estimate import Estimate, PhaseEstimate
from domain.phases import Phase
from domain.progress import seconds_left

TYPICAL = {
    Phase.IMAGE_PULL: 20.0,
    Phase.MODEL_LOAD: 10.0,
    Phase.DATASET_PREP: 5.0,
    Phase.TRAINING: 200.0,
    Phase.EVALUATION: 15.0,
    Phase.REGISTER: 1.0,
}
WHOLE = Estimate(
    rate_micros_per_hour=1,
    tokens=1,
    total_steps=100,
    calibrated_from=0,
    phases=tuple(
        PhaseEstimate(
            phase=phase,
            model_seconds=typical,
            low_seconds=typical / math.sqrt(1.3),
            high_seconds=typical * math.sqrt(1.3),
        )
        for phase, typical in TYPICAL.items()
    ),
)


@pytest.mark.parametrize(
    ("elapsed", "phase", "step", "left"),
    [
        (0.0, None, 0, 251.0),
        (25.0, None, 0, 226.0),
        (5.0, Phase.IMAGE_PULL, 0, 246.0),
        (25.0, Phase.MODEL_LOAD, 0, 226.0),
        (35.0, Phase.TRAINING, 0, 216.0),
        (135.0, Phase.TRAINING, 50, 116.0),  # as expected
        (235.0, Phase.EVALUATION, 100, 16.0),
        (250.5, Phase.REGISTER, 100, 0.5),
    ],
)
def test_a_segment_on_its_estimate(
    elapsed: float, phase: Phase | None, step: int, left: float
) -> None:
    assert seconds_left(WHOLE, elapsed, phase, step, 100) == pytest.approx(left)


def test_a_slow_segment_is_believed_more_and_more() -> None:
    """Twice as slow as expected, in the middle of the steps after 10, 50 and 90 of 100."""
    left = [
        seconds_left(WHOLE, 35.0 + 4.0 * (step + 0.5), Phase.TRAINING, step, 100) - 16.0
        for step in (10, 50, 90)
    ]
    truth = [4.0 * (99.5 - step) for step in (10, 50, 90)]
    errors = [1 - found / true for found, true in zip(left, truth, strict=True)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] == pytest.approx(0.24, abs=0.01)
    assert errors[-1] < 0.06


def test_a_phase_over_its_estimate_is_still_expected_to_take_a_little() -> None:
    assert seconds_left(WHOLE, 500.0, Phase.IMAGE_PULL) == pytest.approx(2.0 + 231.0)
    assert seconds_left(WHOLE, 500.0, None) == pytest.approx(3.5 + 216.0)
    assert seconds_left(WHOLE, 900.0, Phase.REGISTER) == pytest.approx(0.1)


def test_a_stuck_first_step_is_taken_for_a_slower_pace() -> None:
    on_time = seconds_left(WHOLE, 35.0, Phase.TRAINING, 0, 100)
    assert seconds_left(WHOLE, 95.0, Phase.TRAINING, 0, 100) > 2 * on_time


def test_a_resumed_segment_counts_its_own_steps() -> None:
    """The estimate covers the last 40 of 100 steps."""
    rest = WHOLE.model_copy(update={"total_steps": 40})
    assert seconds_left(rest, 35.0, Phase.TRAINING, 60, 100) == pytest.approx(216.0)
    assert seconds_left(rest, 135.0, Phase.TRAINING, 80, 100) == pytest.approx(116.0)
    trained = WHOLE.model_copy(update={"total_steps": 0})
    assert seconds_left(trained, 35.0, Phase.TRAINING, 100, 100) == pytest.approx(16.0)


@given(
    st.floats(-10.0, 1e6),
    st.sampled_from([None, *Phase]),
    st.integers(0, 300),
    st.integers(0, 200),
)
def test_it_is_never_negative_and_always_finite(
    elapsed: float, phase: Phase | None, step: int, total_steps: int
) -> None:
    left = seconds_left(WHOLE, elapsed, phase, step, total_steps)
    assert left >= 0
    assert math.isfinite(left)
