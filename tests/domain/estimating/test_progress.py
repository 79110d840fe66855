"""Progress: what a running segment will still take, from its estimate and what was seen of it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.estimating.estimate import Estimate, PhaseEstimate
from domain.estimating.progress import Steps, seconds_left
from domain.training.phases import Phase

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
    steps = Steps(step, 100, 35.0, elapsed)
    assert seconds_left(WHOLE, elapsed, phase, steps) == pytest.approx(left)


def test_a_slow_segment_is_believed_more_and_more() -> None:
    """Twice as slow as expected, at the end of steps 10, 50 and 90 of 100."""
    left = [
        seconds_left(WHOLE, now, Phase.TRAINING, Steps(step, 100, 35.0, now)) - 16.0
        for step in (10, 50, 90)
        for now in [35.0 + 4.0 * step]
    ]
    truth = [4.0 * (100 - step) for step in (10, 50, 90)]
    errors = [1 - found / true for found, true in zip(left, truth, strict=True)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] == pytest.approx(0.25, abs=0.01)
    assert errors[-1] < 0.06


def test_a_phase_over_its_estimate_is_still_expected_to_take_a_little() -> None:
    assert seconds_left(WHOLE, 500.0, Phase.IMAGE_PULL) == pytest.approx(2.0 + 231.0)
    assert seconds_left(WHOLE, 500.0, None) == pytest.approx(3.5 + 216.0)
    assert seconds_left(WHOLE, 900.0, Phase.REGISTER) == pytest.approx(0.1)


@given(
    st.integers(0, 99),
    st.floats(0.0, 1000.0),
    st.lists(st.floats(0.0, 1000.0), min_size=2, max_size=20),
    st.booleans(),
)
def test_between_two_steps_what_is_left_only_falls(
    step: int, last_seconds: float, later: list[float], measured: bool
) -> None:
    steps = Steps(step, 100, 35.0, 35.0 + last_seconds if measured else None)
    times = [35.0 + last_seconds + each for each in sorted(later)]
    left = [seconds_left(WHOLE, now, Phase.TRAINING, steps) for now in times]
    assert left == sorted(left, reverse=True)


def test_it_counts_down_by_the_clock_and_holds_while_a_step_is_late() -> None:
    """Steps of 2 s: after the tenth, 90 are left; while the next is late, 89 follow it."""
    steps = Steps(10, 100, 35.0, 55.0)
    left = [seconds_left(WHOLE, 55.0 + n, Phase.TRAINING, steps) - 16.0 for n in (0, 1, 2, 30)]
    assert left == pytest.approx([180.0, 179.0, 178.0, 178.0])


def test_a_slow_start_does_not_slow_the_steps() -> None:
    on_time = seconds_left(WHOLE, 55.0, Phase.TRAINING, Steps(10, 100, 35.0, 55.0))
    late = seconds_left(WHOLE, 155.0, Phase.TRAINING, Steps(10, 100, 135.0, 155.0))
    assert late == pytest.approx(on_time)


def test_a_resumed_segment_counts_its_own_steps() -> None:
    """The estimate covers the last 40 of 100 steps."""
    rest = WHOLE.model_copy(update={"total_steps": 40})
    assert seconds_left(rest, 35.0, Phase.TRAINING, Steps(60, 100)) == pytest.approx(216.0)
    assert seconds_left(rest, 135.0, Phase.TRAINING, Steps(80, 100, 35.0, 135.0)) == pytest.approx(
        116.0
    )
    trained = WHOLE.model_copy(update={"total_steps": 0})
    assert seconds_left(trained, 35.0, Phase.TRAINING, Steps(100, 100)) == pytest.approx(16.0)


@given(
    st.floats(-10.0, 1e6),
    st.sampled_from([None, *Phase]),
    st.integers(0, 300),
    st.integers(0, 200),
)
def test_it_is_never_negative_and_always_finite(
    elapsed: float, phase: Phase | None, step: int, total_steps: int
) -> None:
    left = seconds_left(WHOLE, elapsed, phase, Steps(step, total_steps))
    assert left >= 0
    assert math.isfinite(left)
