"""How a row's next token is drawn from its logits."""

from __future__ import annotations

import torch
from torch import Tensor

CANDIDATES = (64, 1024)
"""Likeliest tokens to sort before all: they nearly always hold what top_p asks for, and sorting a
whole vocabulary takes a CPU longer than a layer of a small model."""


class Drawing:
    """Draws by temperature and top_p, with a random state of its own.

    One uniform number is used for each token, so that a seed gives the same answer whatever else
    is answered at the time, as far as the logits are the same to the last bits.
    """

    def __init__(self, temperature: float, top_p: float, seed: int) -> None:
        self.greedy = temperature == 0
        self._temperature, self._top_p = temperature, top_p
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, logits: Tensor) -> int:
        """A token for logits of shape (vocabulary,)."""
        if self.greedy:
            return int(logits.argmax())
        scaled = logits.double() / self._temperature
        uniform = torch.rand((), generator=self._generator, dtype=torch.float64).to(logits.device)
        if self._top_p >= 1:
            return _at(scaled.softmax(-1).cumsum(-1), uniform)
        summed, tokens = self._nucleus(scaled)
        return int(tokens[_at(summed, uniform)])

    def _nucleus(self, scaled: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest tokens up to and with the one that reaches top_p, with their probabilities
        summed up. Source: Holtzman et al., The Curious Case of Neural Text Degeneration (2020)."""
        whole, vocabulary = scaled.logsumexp(-1), len(scaled)
        for count in (*CANDIDATES, vocabulary):
            values, tokens = scaled.topk(min(count, vocabulary))
            summed = (values - whole).exp().cumsum(-1)
            if len(tokens) == vocabulary or float(summed[-1]) >= self._top_p:
                size = int(torch.searchsorted(summed, self._top_p)) + 1
                return summed[:size], tokens[:size]
        raise AssertionError("all tokens are candidates at last")


def _at(summed: Tensor, uniform: Tensor) -> int:
    """The index that a number between 0 and 1 falls on, by cumulative weights."""
    index = int(torch.searchsorted(summed, uniform * summed[-1], right=True))
    return min(index, len(summed) - 1)
