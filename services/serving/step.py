"""One forward pass of a base model, with the tokens of all rows packed into one sequence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.serving.kv_cache import KVCache

RAGGED = 2.0
"""Ratio of padded to real work above which single-token rows attend one at a time."""


@dataclass(frozen=True)
class Part:
    """The tokens of a row that one step processes, and their position."""

    slot: int
    start: int  # number of tokens of the row that are already processed
    tokens: list[int]
    answers: bool  # True: sample a new token after the last token

    @property
    def end(self) -> int:
        """Number of tokens of the row that are processed after this step."""
        return self.start + len(self.tokens)


class Step:
    """The layout of one pass. Single-token parts come first, because they attend together."""

    def __init__(
        self, parts: Sequence[Part], cache: KVCache, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.parts = tuple(sorted(parts, key=lambda part: (len(part.tokens) > 1, part.slot)))
        self.cache = cache
        self._dtype, self._device = dtype, device
        self.singles = [part for part in self.parts if len(part.tokens) == 1]
        # Longer parts, with the index of their first token.
        self.stretches: list[tuple[int, Part]] = []
        tokens, slots, places, last = [], [], [], []
        for part in self.parts:
            if len(part.tokens) > 1:
                self.stretches.append((len(tokens), part))
            tokens += part.tokens
            slots += [part.slot] * len(part.tokens)
            places += range(part.start, part.end)
            if part.answers:
                last.append(len(tokens) - 1)
        self.input_ids = self._tensor(tokens)[None]
        self.places = self._tensor(places)
        self.slots = self._tensor(slots)
        self.answering = self._tensor(last)
        # Single-token rows attend in one call, padded to the longest, unless their lengths differ
        # too much.
        self.used = max((part.slot + 1 for part in self.singles), default=0)  # number of slots
        self.longest = max((part.end for part in self.singles), default=0)  # in tokens
        self.dense = self.used == len(self.singles)
        real = sum(part.end for part in self.singles)
        self.together = self.used * self.longest <= max(RAGGED * real, self.used * 128)
        self.single_slots = self.slots[: len(self.singles)]
        self._masks: dict[tuple[int | None, int], Tensor] = {}

    def singles_mask(self, window: int | None) -> Tensor:
        """Return the mask for single-token rows, (slots, 1, 1, longest): 0 or minus infinity."""
        key = (window, -1)
        if key not in self._masks:
            ends = [1] * self.used  # a slot without a query attends to its first token
            for part in self.singles:
                ends[part.slot] = part.end
            self._masks[key] = self._mask(self._tensor(ends)[:, None], self.longest, window)[
                :, None, None
            ]
        return self._masks[key]

    def stretch_mask(self, part: Part, groups: int, window: int | None) -> Tensor:
        """Return the mask for a longer part, (groups x tokens, end), with one row per query."""
        key = (window, part.slot)
        if key not in self._masks:
            ends = torch.arange(part.start + 1, part.end + 1, device=self._device)[:, None]
            self._masks[key] = self._mask(ends, part.end, window).repeat(groups, 1)
        return self._masks[key]

    def _mask(self, ends: Tensor, length: int, window: int | None) -> Tensor:
        places = torch.arange(length, device=self._device)
        hidden = places >= ends
        if window is not None:
            hidden = hidden | (places < ends - window)
        mask = torch.zeros(hidden.shape, dtype=self._dtype, device=self._device)
        return mask.masked_fill_(hidden, -math.inf)

    def _tensor(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)
