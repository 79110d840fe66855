"""How long a dataset's examples are in tokens: a histogram that truncation can be read from."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import accumulate, islice

from pydantic import BaseModel, ConfigDict

GROWTH = 1.15
"""How much longer each bucket's bound is than the one before."""
LONGEST_BOUND = 2**20
"""The last bound; it is the longest example that a job may ask for."""


def _bounds() -> tuple[int, ...]:
    bounds = [0]
    while bounds[-1] < LONGEST_BOUND:
        bounds.append(min(LONGEST_BOUND, max(bounds[-1] + 1, math.floor(bounds[-1] * GROWTH))))
    return tuple(bounds)


BOUNDS = _bounds()
"""0, 1, 2, ... and from 14 on 15% apart: no more than 100 buckets, and one for what is beyond."""


class Bucket(BaseModel):
    """The examples of more than `above` and at most `up_to` tokens, and their tokens together.

    An example without any token is among those of the first bucket.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    above: int
    up_to: int
    examples: int
    tokens: int


class TokenLengths(BaseModel):
    """Lengths of all examples under one tokenizer, nothing truncated; no bucket is empty."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    examples: int
    tokens: int
    longest: int
    buckets: tuple[Bucket, ...]
    labels: LabelTokens | None = None  # None: not counted

    @classmethod
    def of(cls, lengths: Iterable[int]) -> TokenLengths:
        """Count the lengths of some examples."""
        return cls.of_counts(Counter(lengths))

    @classmethod
    def of_counts(cls, lengths: Mapping[int, int]) -> TokenLengths:
        """Count examples that are given as a number for each length."""
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
        """Tokens of all examples if each is cut to its first `limit` tokens.

        Exact but for the bucket that the limit falls into, of which the middle between the least
        and the most is taken: no further from the truth than an eighth of the bucket's width for
        each of its examples, which is under 2% of the tokens in that one bucket.
        """
        return round(sum(_kept(bucket, limit) for bucket in self.buckets))

    def longer_than(self, limit: int) -> int:
        """Examples of more than `limit` tokens: those that a limit truncates.

        Exact but for the bucket that the limit falls into, whose lengths are taken as spread evenly
        around its mean; at least one if the longest example is.
        """
        if self.longest <= limit:
            return 0
        longest = self.longest
        found = sum(each.examples * _share_above(each, limit, longest) for each in self.buckets)
        return max(1, round(found))

    def quantiles(self, shares: Iterable[float], limit: int) -> list[float]:
        """Lengths, cut to `limit`, below which given shares (0 to 1, ascending) of examples lie.

        Within a bucket lengths are taken as spread evenly around its mean.
        """
        ends = list(accumulate(bucket.examples for bucket in self.buckets))
        found: list[float] = []
        for share in shares:
            rank = share * self.examples
            number = min(bisect_left(ends, rank), len(ends) - 1)
            bucket = self.buckets[number]
            within = (rank - (ends[number] - bucket.examples)) / bucket.examples
            found.append(min(limit, _spread(bucket, within)))
        return found


class LabelTokens(BaseModel):
    """Where the trainable tokens of a dataset are: those that the assistant says.

    A token at position p (from 1) survives a truncation to `limit` tokens if p <= limit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    positions: TokenLengths  # of every trainable token
    first: TokenLengths  # of the first trainable token of each example that has one
    least: tuple[int, ...]  # the two smallest of `first`, exactly; fewer if there are fewer

    @classmethod
    def of_counts(cls, positions: Mapping[int, int], first: Mapping[int, int]) -> LabelTokens:
        """Trainable tokens given as a number for each position, and examples likewise."""
        least = islice(Counter({each: first[each] for each in sorted(first)}).elements(), 2)
        return cls(
            positions=TokenLengths.of_counts(positions),
            first=TokenLengths.of_counts(first),
            least=tuple(least),
        )

    @property
    def tokens(self) -> int:
        """All trainable tokens."""
        return self.positions.examples

    def kept(self, limit: int) -> int:
        """Trainable tokens that a truncation leaves; exact but for the bucket of the limit."""
        if not self.least or limit < self.least[0]:
            return 0
        return max(1, self.positions.examples - self.positions.longer_than(limit))

    def teaching(self, limit: int) -> int:
        """Examples that keep a trainable token; exact up to two, else but for one bucket."""
        exact = sum(each <= limit for each in self.least)
        return exact if exact < 2 else max(2, self.first.examples - self.first.longer_than(limit))


def _kept(bucket: Bucket, limit: int) -> float:
    """Tokens that truncation leaves of a bucket.

    Inside the bucket they rise with the limit on a concave curve, so not below the straight line
    between its ends; and no example keeps more than the limit, or than it has.
    """
    if bucket.up_to <= limit:
        return bucket.tokens
    if limit <= bucket.above:
        return bucket.examples * limit
    at_least = bucket.examples * bucket.above
    share = (limit - bucket.above) / (bucket.up_to - bucket.above)
    at_least += share * (bucket.tokens - at_least)
    return (at_least + min(bucket.examples * limit, bucket.tokens)) / 2


def _share_above(bucket: Bucket, limit: int, longest: int) -> float:
    """Share (0 to 1) of a bucket's examples that are longer than a limit."""
    if bucket.up_to <= limit:
        return 0.0
    if limit <= bucket.above:
        return 1.0
    known = bucket.model_copy(update={"up_to": min(bucket.up_to, longest)})
    low, high = _spread(known, 0.0), _spread(known, 1.0)
    if low == high:
        return float(limit < low)
    # Whole numbers from low to high.
    return min(1.0, max(0.0, (high - limit) / (high - low + 1)))


def _spread(bucket: Bucket, share: float) -> float:
    """Length at a share (0 to 1) of a bucket: even around its mean, and within its bounds."""
    mean = bucket.tokens / bucket.examples
    reach = min(mean - bucket.above, bucket.up_to - mean)
    return mean + (2 * share - 1) * reach
