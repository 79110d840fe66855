"""How the examples of a step are cut into batches that run at once: the cut that costs least."""

from __future__ import annotations

from collections.abc import Sequence

from domain.footprint import PAD_MULTIPLE

BATCH_TOKENS = 160
"""What a batch costs beside its tokens, in tokens: launching its kernels, whatever their size."""

MOST_ROWS = 256  # of a batch; more save next to nothing


def padded(tokens: int) -> int:
    """The length of a batch whose longest example has so many tokens."""
    return -(-tokens // PAD_MULTIPLE) * PAD_MULTIPLE


def cut_by_cost(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Batches of positions in `lengths` (tokens), longest examples first.

    A batch has at most `budget` tokens, padding included; an example that has more by itself is
    alone. Of all such cuts of the examples in order of length this one has the least tokens,
    `BATCH_TOKENS` for each batch counted in. It is found from the cuts of fewer examples, as line
    breaks are in Knuth and Plass, Breaking Paragraphs into Lines (1981).
    """
    order = sorted(range(len(lengths)), key=lambda position: (-lengths[position], position))
    tokens = [padded(lengths[position]) for position in order]
    costs, starts = [0], [0]  # of the first n examples: what their best cut costs, its last start
    for end in range(1, len(order) + 1):
        ways = [
            (costs[start] + (end - start) * tokens[start] + BATCH_TOKENS, start)
            for start in range(max(0, end - MOST_ROWS), end)
            if end - start == 1 or (end - start) * tokens[start] <= budget
        ]
        cost, start = min(ways)
        costs.append(cost)
        starts.append(start)
    batches: list[list[int]] = []
    end = len(order)
    while end > 0:
        batches.append(order[starts[end] : end])
        end = starts[end]
    return batches[::-1]
