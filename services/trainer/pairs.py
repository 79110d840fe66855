"""Preference pairs as token sequences."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from infrastructure.chat.chat_labels import Example


@dataclass(frozen=True)
class Pair:
    """The sequences of a preference pair: the prompt with each answer, which alone has labels."""

    chosen: Example
    rejected: Example


Item = Example | Pair
"""An example to train on: a chat, which is one sequence, or a preference pair."""


def sequences_of(item: Item) -> tuple[Example, ...]:
    """Return the sequences of an example, that of a preferred answer first."""
    return (item.chosen, item.rejected) if isinstance(item, Pair) else (item,)


def all_sequences(items: Iterable[Item]) -> list[Example]:
    """Return the sequences of several examples, in order."""
    return [sequence for item in items for sequence in sequences_of(item)]


def length_of(item: Item) -> int:
    """Return the number of tokens of the longest sequence of an example."""
    return max(len(sequence.input_ids) for sequence in sequences_of(item))
