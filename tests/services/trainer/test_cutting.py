"""The cut of a step into batches, against every other cut of it."""

from __future__ import annotations

from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.trainer.cutting import BATCH_TOKENS, cut_by_cost, padded

LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=9)


def cost(batches: list[list[int]], lengths: list[int]) -> int:
    return sum(size(batch, lengths) + BATCH_TOKENS for batch in batches)


def size(batch: list[int], lengths: list[int]) -> int:
    return len(batch) * padded(max(lengths[position] for position in batch))


@given(LENGTHS, st.integers(1, 1000))
def test_no_other_cut_in_order_of_length_is_cheaper(lengths: list[int], budget: int):
    found = cut_by_cost(lengths, budget)
    order = [position for batch in found for position in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[position] for position in order] == sorted(lengths, reverse=True)
    fits = [len(batch) == 1 or size(batch, lengths) <= budget for batch in found]
    assert all(fits)
    for number in range(len(order)):
        for cuts in combinations(range(1, len(order)), number):
            edges = [0, *cuts, len(order)]
            other = [order[a:b] for a, b in pairwise(edges)]
            if all(len(batch) == 1 or size(batch, lengths) <= budget for batch in other):
                assert cost(found, lengths) <= cost(other, lengths)


def test_short_examples_run_together_and_a_long_one_does_not_pad_them():
    lengths = [30, 400, 30, 28, 32, 31]
    assert cut_by_cost(lengths, budget=800) == [[1], [4, 5, 0, 2, 3]]


def test_an_example_above_the_budget_is_alone():
    assert cut_by_cost([100, 100], budget=64) == [[0], [1]]
