"""Tokens are sampled by temperature and top_p."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from services.serving import sampler
from services.serving.sampler import Sampler

LOGITS = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()


def drawn(temperature: float, top_p: float, times: int = 2000) -> Counter[int]:
    draws = Sampler(temperature, top_p, seed=3)
    return Counter(draws.sample(LOGITS) for _ in range(times))


def test_temperature_zero_takes_the_most_likely_token() -> None:
    assert drawn(0, 0.1) == {0: 2000}


def test_frequencies_equal_the_probabilities() -> None:
    shares = drawn(1, 1)
    assert [round(shares[token] / 2000, 1) for token in range(4)] == pytest.approx(
        [0.5, 0.2, 0.2, 0.1], abs=0.11
    )
    assert drawn(0.1, 1)[0] > 1950


@pytest.mark.parametrize(("top_p", "left"), [(0.4, {0}), (0.6, {0, 1}), (0.95, {0, 1, 2, 3})])
def test_only_the_nucleus_is_sampled(
    top_p: float, left: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(drawn(1, top_p)) == left
    monkeypatch.setattr(sampler, "CANDIDATES", (1, 2))
    assert set(drawn(1, top_p)) == left


def test_a_seed_is_reproducible() -> None:
    assert drawn(1, 0.9, 20) == drawn(1, 0.9, 20)
