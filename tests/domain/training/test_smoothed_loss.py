"""The smoothed loss: Adam's debiased average, the same for a step wherever it is shown."""

from __future__ import annotations

import math

import pytest

from domain.training.smoothed_loss import SmoothedLoss, smoothing_steps


def smoothed(losses: list[float], total_steps: int) -> list[float]:
    average, values = SmoothedLoss(), list[float]()
    for loss in losses:
        average = average.after(loss, total_steps)
        values.append(average.value)
    return values


def test_it_is_the_average_over_one_less_beta_to_the_steps() -> None:
    losses = [3.0, 1.0, 2.0, 2.5]
    beta, average = math.exp(-1 / 5), 0.0
    for step, loss in enumerate(losses, 1):
        average = beta * average + (1 - beta) * loss
        expected = average / (1 - beta**step)
        assert smoothed(losses[:step], 100)[-1] == pytest.approx(expected)


def test_it_runs_through_the_data_from_the_first_step() -> None:
    """A first value that keeps its full weight would hold the line above a falling loss."""
    falling = [4.0, *[2.0] * 5]
    assert smoothed(falling, 100)[0] == 4.0
    assert smoothed([2.0] * 30, 100) == pytest.approx([2.0] * 30)
    assert smoothed(falling, 100)[-1] < sum(falling) / len(falling)


@pytest.mark.parametrize(("total", "steps"), [(1, 5), (250, 5), (1000, 20)])
def test_its_span_is_a_share_of_the_run(total: int, steps: float) -> None:
    assert smoothing_steps(total) == steps
