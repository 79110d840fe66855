"""Token lengths: a bounded histogram, exact but for the bucket that a limit falls into."""

from __future__ import annotations

import itertools
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from domain.training.token_lengths import BOUNDS, LONGEST_BOUND, LabelTokens, TokenLengths

LENGTHS = st.lists(st.integers(0, 3 * LONGEST_BOUND), min_size=1, max_size=60)


def test_the_bounds_are_few_and_grow_by_no_more_than_15_percent() -> None:
    assert len(BOUNDS) - 1 <= 100
    assert BOUNDS[-1] == LONGEST_BOUND
    assert all(high - low == 1 or high <= 1.15 * low for low, high in itertools.pairwise(BOUNDS))


def test_short_examples_have_buckets_of_their_own() -> None:
    lengths = TokenLengths.of([1, 2, 2, 3])
    assert [(each.above, each.up_to, each.examples) for each in lengths.buckets] == [
        (0, 1, 1),
        (1, 2, 2),
        (2, 3, 1),
    ]
    assert [lengths.after_truncation(limit) for limit in (1, 2, 3, 9)] == [4, 7, 8, 8]


def test_what_a_limit_truncates_is_counted() -> None:
    lengths = TokenLengths.of([1, 2, 2, 3, 50, 50])
    assert [lengths.longer_than(limit) for limit in (0, 1, 2, 3, 10, 49, 50, 99)] == [
        *(6, 5, 3, 2, 2, 2, 0, 0)
    ]


@given(LENGTHS, st.integers(1, LONGEST_BOUND))
def test_what_is_truncated_is_no_bucket_off(sizes: list[int], limit: int) -> None:
    lengths = TokenLengths.of(sizes)
    inside = [each for each in lengths.buckets if each.above < limit < each.up_to]
    found, longer = lengths.longer_than(limit), sum(size > limit for size in sizes)
    assert abs(found - longer) <= sum(each.examples for each in inside)
    assert (found > 0) == (longer > 0)


def test_nothing_is_counted_of_nothing() -> None:
    lengths = TokenLengths.of([])
    assert (lengths.examples, lengths.tokens, lengths.longest, lengths.buckets) == (0, 0, 0, ())
    assert lengths.after_truncation(100) == 0


@given(LENGTHS)
def test_sums_are_exact_and_every_example_is_in_its_bucket(sizes: list[int]) -> None:
    lengths = TokenLengths.of(sizes)
    assert (lengths.examples, lengths.tokens) == (len(sizes), sum(sizes))
    assert lengths.longest == max(sizes)
    assert sum(each.examples for each in lengths.buckets) == len(sizes)
    for each in lengths.buckets:
        inside = [size for size in sizes if each.above < max(1, size) <= each.up_to]
        assert (len(inside), sum(inside)) == (each.examples, each.tokens)


@given(LENGTHS, st.integers(1, 3 * LONGEST_BOUND))
def test_truncation_is_exact_but_for_an_eighth_of_one_bucket(sizes: list[int], limit: int) -> None:
    lengths = TokenLengths.of(sizes)
    truth = sum(min(size, limit) for size in sizes)
    straddling = [each for each in lengths.buckets if each.above < limit < each.up_to]
    assert len(straddling) <= 1
    bound = sum(each.examples * (each.up_to - each.above) / 8 for each in straddling)
    assert abs(truth - lengths.after_truncation(limit)) <= bound + 0.5


@given(LENGTHS, st.integers(1, 3 * LONGEST_BOUND))
def test_quantiles_rise_and_stay_within_the_buckets(sizes: list[int], limit: int) -> None:
    lengths = TokenLengths.of(sizes)
    shares = [0.1, 0.5, 0.9, 1.0]
    found = lengths.quantiles(shares, limit)
    assert found == sorted(found)
    ordered = sorted(sizes)
    for share, length in zip(shares, found, strict=True):
        truth = ordered[max(0, -int(-share * len(sizes) // 1) - 1)]
        bucket = next(each for each in lengths.buckets if each.above < max(1, truth) <= each.up_to)
        assert min(limit, bucket.above) <= length <= min(limit, bucket.up_to)


SPANS = st.lists(st.tuples(st.integers(2, 3000), st.integers(1, 40)), max_size=30)
"""(position of the first trainable token, trainable tokens) of some examples."""


@given(SPANS, st.integers(1, 3100))
def test_trainable_tokens_after_a_truncation_are_exact_but_for_one_bucket(
    spans: list[tuple[int, int]], limit: int
) -> None:
    positions = Counter(p for start, size in spans for p in range(start, start + size))
    first = Counter(start for start, _ in spans)
    labels = LabelTokens.of_counts(positions, first)
    kept = sum(examples for position, examples in positions.items() if position <= limit)
    teaching = sum(start <= limit for start, _ in spans)
    assert labels.tokens == positions.total()
    assert (labels.kept(limit) > 0) == (kept > 0)
    assert labels.least_teaching(limit) == min(2, teaching)
    assert (labels.teaching(limit) > 0) == (teaching > 0)
    for found, truth, histogram in [
        (labels.kept(limit), kept, labels.positions),
        (labels.teaching(limit), teaching, labels.first),
    ]:
        inside = [each for each in histogram.buckets if each.above < limit < each.up_to]
        assert abs(found - truth) <= sum(each.examples for each in inside)


def test_a_truncation_before_the_first_answer_leaves_nothing() -> None:
    labels = LabelTokens.of_counts({50: 40, 51: 40}, {50: 40})
    assert (labels.kept(49), labels.teaching(49), labels.least) == (0, 0, (50, 50))
    assert (labels.kept(51), labels.teaching(51), labels.tokens) == (80, 40, 80)
