"""Sampling of the next token of a row from its logits."""

from __future__ import annotations

import torch
from torch import Tensor

CANDIDATES = (64, 1024)
"""Numbers of tokens to sort first. They nearly always reach top_p, and save time on a CPU."""


class Sampler:
    """A sampler with temperature, top_p and its own random state.

    Each token uses one uniform random number. A seed therefore results in the same answer
    regardless of the rest of the batch, as long as the logits are equal.
    """

    def __init__(self, temperature: float, top_p: float, seed: int) -> None:
        self.greedy = temperature == 0
        self._temperature, self._top_p = temperature, top_p
        self._generator = torch.Generator().manual_seed(seed)

    def sample(self, logits: Tensor) -> int:
        """Return a token ID for logits of shape (vocabulary,)."""
        if self.greedy:
            return int(logits.argmax())
        scaled = logits.double() / self._temperature
        uniform = torch.rand((), generator=self._generator, dtype=torch.float64).to(logits.device)
        if self._top_p >= 1:
            return _at(scaled.softmax(-1).cumsum(-1), uniform)
        summed, tokens = self._nucleus(scaled)
        return int(tokens[_at(summed, uniform)])

    def _nucleus(self, scaled: Tensor) -> tuple[Tensor, Tensor]:
        """Return cumulative probabilities and IDs up to top_p. Source: Holtzman et al. (2020)."""
        total, vocabulary = scaled.logsumexp(-1), len(scaled)
        for count in (*CANDIDATES, vocabulary):
            values, tokens = scaled.topk(min(count, vocabulary))
            summed = (values - total).exp().cumsum(-1)
            if len(tokens) == vocabulary or float(summed[-1]) >= self._top_p:
                size = int(torch.searchsorted(summed, self._top_p)) + 1
                return summed[:size], tokens[:size]
        raise AssertionError("the last round has all tokens")


def _at(summed: Tensor, uniform: Tensor) -> int:
    """Return the index at which the cumulative weights exceed a number between 0 and 1."""
    index = int(torch.searchsorted(summed, uniform * summed[-1], right=True))
    return min(index, len(summed) - 1)
