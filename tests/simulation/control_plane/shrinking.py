"""Shrinking of a story that breaks a rule: fewer operations, and simpler ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tests.simulation.control_plane.operations import Operation

Fails = Callable[[Sequence[Operation]], bool]


def shrunk(operations: Sequence[Operation], fails: Fails) -> list[Operation]:
    """Return a part of the operations that still fails, of which none can be left out.

    The operations must fail. This is the minimizing delta debugging of Zeller and Hildebrandt, and
    then the simplest value of each parameter with which the story still fails.
    """
    kept = _minimal(list(operations), fails)
    return _simplified(kept, fails)


def _minimal(kept: list[Operation], fails: Fails) -> list[Operation]:
    size = max(1, len(kept) // 2)
    while True:
        begin, removed = 0, False
        while begin < len(kept):
            rest = kept[:begin] + kept[begin + size :]
            if fails(rest):
                kept, removed = rest, True
            else:
                begin += size
        if size == 1 and not removed:
            return kept
        size = max(1, size // 2)


def _simplified(kept: list[Operation], fails: Fails) -> list[Operation]:
    for number, operation in enumerate(kept):
        for name, choices in operation.kind.parameters.items():
            values = dict(kept[number].values) | {name: choices[0]}
            simpler = replace(operation, values=tuple(values.items()))
            changed = [*kept[:number], simpler, *kept[number + 1 :]]
            if simpler != kept[number] and fails(changed):
                kept = changed
    return kept
