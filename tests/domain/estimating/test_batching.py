"""How a step is cut into batches."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from domain.estimating.batching import fill, padded

LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=40)


@given(LENGTHS, st.integers(1, 1000))
def test_every_example_is_in_one_batch_that_fits_and_could_take_no_more(
    lengths: list[int], budget: int
):
    batches = fill(lengths, budget)
    order = [position for batch in batches for position in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[position] for position in order] == sorted(lengths, reverse=True)
    for number, batch in enumerate(batches):
        length = padded(lengths[batch[0]])
        assert len(batch) == 1 or len(batch) * length <= budget
        if number + 1 < len(batches):
            assert (len(batch) + 1) * length > budget


def test_an_example_above_the_budget_is_alone():
    assert fill([100, 100], budget=64) == [[0], [1]]
