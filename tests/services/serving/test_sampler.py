"""Tokens are drawn by temperature and top_p."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from services.serving import sampler as drawing
from services.serving.sampler import Drawing

LOGITS = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()


def drawn(temperature: float, top_p: float, times: int = 2000) -> Counter[int]:
    draws = Drawing(temperature, top_p, seed=3)
    return Counter(draws.draw(LOGITS) for _ in range(times))


def test_no_temperature_takes_the_likeliest() -> None:
    assert drawn(0, 0.1) == {0: 2000}


def test_shares_are_the_probabilities() -> None:
    shares = drawn(1, 1)
    assert [round(shares[token] / 2000, 1) for token in range(4)] == pytest.approx(
        [0.5, 0.2, 0.2, 0.1], abs=0.11
    )
    assert drawn(0.1, 1)[0] > 1950


@pytest.mark.parametrize(("top_p", "left"), [(0.4, {0}), (0.6, {0, 1}), (0.95, {0, 1, 2, 3})])
def test_only_the_nucleus_is_drawn_from(
    top_p: float, left: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(drawn(1, top_p)) == left
    monkeypatch.setattr(drawing, "CANDIDATES", (1, 2))
    assert set(drawn(1, top_p)) == left


def test_a_seed_repeats_itself() -> None:
    assert drawn(1, 0.9, 20) == drawn(1, 0.9, 20)
