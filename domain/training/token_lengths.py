"""Histograms of the examples of a dataset by length in tokens."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import accumulate, islice

from domain.core.value import Value

GROWTH = 1.15
"""Ratio of a bucket's upper bound to the previous bound."""
LONGEST_BOUND = 2**20
"""The last bound, which equals the maximum of `max_sequence_length`."""


def _bounds() -> tuple[int, ...]:
    bounds = [0]
    while bounds[-1] < LONGEST_BOUND:
        bounds.append(min(LONGEST_BOUND, max(bounds[-1] + 1, math.floor(bounds[-1] * GROWTH))))
    return tuple(bounds)


BOUNDS = _bounds()
"""Upper bounds: 0, 1, 2, ..., from 14 on in steps of 15%. One more bucket has longer ones."""


class Bucket(Value):
    """The number of examples with more than `above` and at most `up_to` tokens, and their tokens.

    The first bucket includes examples without tokens.
    """

    above: int
    up_to: int
    examples: int
    tokens: int


class TokenLengths(Value):
    """Lengths of all sequences under one tokenizer, before truncation. No bucket is empty.

    A chat is one sequence, or one for each answer if the chat template rewrites history. A
    preference pair is two. Here, each sequence counts as an example.
    """

    examples: int
    tokens: int
    longest: int
    buckets: tuple[Bucket, ...]
    labels: LabelTokens | None = None  # None: not counted

    @classmethod
    def of(cls, lengths: Iterable[int]) -> TokenLengths:
        """Return the histogram of the given lengths."""
        return cls.of_counts(Counter(lengths))

    @classmethod
    def of_counts(cls, lengths: Mapping[int, int]) -> TokenLengths:
        """Return the histogram of examples, given the number of examples by length."""
        sizes: dict[int, list[int]] = {}  # bucket -> [examples, tokens]
        longest = 0
        for length, examples in lengths.items():
            assert length >= 0
            size = sizes.setdefault(max(1, bisect_left(BOUNDS, length)), [0, 0])
            size[0] += examples
            size[1] += examples * length
            longest = max(longest, length)
        buckets = tuple(
            Bucket(
                above=BOUNDS[number - 1],
                up_to=BOUNDS[number] if number < len(BOUNDS) else longest,
                examples=sizes[number][0],
                tokens=sizes[number][1],
            )
            for number in sorted(sizes)
        )
        return cls(
            examples=sum(bucket.examples for bucket in buckets),
            tokens=sum(bucket.tokens for bucket in buckets),
            longest=longest,
            buckets=buckets,
        )

    def after_truncation(self, limit: int) -> int:
        """Return the total tokens of truncated examples, within 2% in the limit's bucket."""
        if limit >= self.longest:
            return self.tokens
        return round(sum(_kept(bucket, limit) for bucket in self.buckets))

    def longer_than(self, limit: int) -> int:
        """Return the number of longer examples, assuming uniform lengths in the limit's bucket."""
        if self.longest <= limit:
            return 0
        longest = self.longest
        found = sum(each.examples * _share_above(each, limit, longest) for each in self.buckets)
        return max(1, round(found))

    def quantiles(self, shares: Iterable[float], limit: int) -> list[float]:
        """Return quantiles of truncated lengths, uniform in a bucket, for ascending shares."""
        ends = list(accumulate(bucket.examples for bucket in self.buckets))
        found: list[float] = []
        for share in shares:
            rank = share * self.examples
            number = min(bisect_left(ends, rank), len(ends) - 1)
            bucket = self.buckets[number]
            within = (rank - (ends[number] - bucket.examples)) / bucket.examples
            found.append(min(limit, _spread(bucket, within)))
        return found


class LabelTokens(Value):
    """Positions of the trainable tokens of a dataset, which are those of the assistant.

    Truncation to `limit` tokens keeps the token at position p (from 1) if p <= limit.
    """

    positions: TokenLengths  # positions of all trainable tokens
    # Position of the first trainable token in each example that has one. A chat has an example for
    # each of its sequences, and a preference pair is one.
    first: TokenLengths
    # The two smallest positions of the first trainable token in a chat or pair, exact; fewer if
    # there are fewer.
    least: tuple[int, ...]

    @classmethod
    def of_counts(
        cls,
        positions: Mapping[int, int],
        first: Mapping[int, int],
        least: Iterable[int] | None = None,
    ) -> LabelTokens:
        """Return the histograms of given positions.

        `positions` has the number of trainable tokens by position. `first` has the number of
        examples by the position of their first trainable token. If `least` is None, each chat has
        one example.
        """
        if least is None:
            least = islice(Counter({each: first[each] for each in sorted(first)}).elements(), 2)
        return cls(
            positions=TokenLengths.of_counts(positions),
            first=TokenLengths.of_counts(first),
            least=tuple(least),
        )

    @property
    def tokens(self) -> int:
        """Number of trainable tokens."""
        return self.positions.examples

    def kept(self, limit: int) -> int:
        """Return the number of trainable tokens after truncation, exact except for one bucket."""
        if not self.least or limit < self.least[0]:
            return 0
        return max(1, self.positions.examples - self.positions.longer_than(limit))

    def least_teaching(self, limit: int) -> int:
        """Return the number of chats or pairs that keep a trainable token, but at most two."""
        return sum(each <= limit for each in self.least)

    def teaching(self, limit: int) -> int:
        """Return the examples that keep a trainable token, exact except for one bucket."""
        if not (least := self.least_teaching(limit)):
            return 0
        return max(least, self.first.examples - self.first.longer_than(limit))


def _kept(bucket: Bucket, limit: int) -> float:
    """Return the mean of both bounds of a bucket's tokens, which are concave in the limit."""
    if bucket.up_to <= limit:
        return bucket.tokens
    if limit <= bucket.above:
        return bucket.examples * limit
    at_least = bucket.examples * bucket.above
    share = (limit - bucket.above) / (bucket.up_to - bucket.above)
    at_least += share * (bucket.tokens - at_least)
    return (at_least + min(bucket.examples * limit, bucket.tokens)) / 2


def _share_above(bucket: Bucket, limit: int, longest: int) -> float:
    """Return the share (0 to 1) of a bucket's examples that are longer than `limit`."""
    if bucket.up_to <= limit:
        return 0.0
    if limit <= bucket.above:
        return 1.0
    known = bucket.model_copy(update={"up_to": min(bucket.up_to, longest)})
    low, high = _spread(known, 0.0), _spread(known, 1.0)
    if low == high:
        return float(limit < low)
    # Lengths are whole numbers from low to high.
    return min(1.0, max(0.0, (high - limit) / (high - low + 1)))


def _spread(bucket: Bucket, share: float) -> float:
    """Return the quantile of a bucket at a share (0 to 1), assuming uniform lengths."""
    mean = bucket.tokens / bucket.examples
    reach = min(mean - bucket.above, bucket.up_to - mean)
    return mean + (2 * share - 1) * reach
