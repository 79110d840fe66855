"""A histogram of example lengths as an SVG."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from domain.training.token_lengths import BOUNDS, TokenLengths

HEIGHT, BAR, GAP = 100, 10, 2  # in SVG units
LEAST = 1.5  # minimum height of a bar with examples


@dataclass(frozen=True)
class Bar:
    """The examples in a range of lengths."""

    x: int
    y: float
    height: float
    label: str
    beyond: bool  # longer than the context, so the examples are truncated


@dataclass(frozen=True)
class Histogram:
    """Bars from the shortest example to the longest. Each range is 15% wider than the last."""

    bars: list[Bar]
    width: int
    shortest: int  # tokens at the left edge
    longest: int
    median: int
    most: int  # 95th percentile
    beyond: int  # approximate number of examples longer than the context
    limit_x: int | None  # position of the context length; None: not visible


def histogram(lengths: TokenLengths, context_length: int) -> Histogram | None:
    """Return the histogram, or None if there are no examples."""
    if not lengths.buckets:
        return None
    first = _number(lengths.buckets[0].up_to)
    width = (_number(lengths.buckets[-1].up_to) - first + 1) * BAR
    highest = max(bucket.examples for bucket in lengths.buckets)
    bars: list[Bar] = []
    for bucket in lengths.buckets:
        height = max(LEAST, HEIGHT * bucket.examples / highest)
        span = f"{bucket.above + 1:,} to {min(bucket.up_to, lengths.longest):,}"
        bars.append(
            Bar(
                x=(_number(bucket.up_to) - first) * BAR + GAP // 2,
                y=round(HEIGHT - height, 2),
                height=round(height, 2),
                label=f"{span} tokens: {bucket.examples:,} "
                f"{'example' if bucket.examples == 1 else 'examples'}",
                beyond=bucket.above >= context_length,
            )
        )
    median, most = lengths.quantiles([0.5, 0.95], lengths.longest)
    limit_x = (_number(context_length) - first + 1) * BAR
    return Histogram(
        bars=bars,
        width=width,
        shortest=lengths.buckets[0].above + 1,
        longest=lengths.longest,
        median=round(median),
        most=round(most),
        beyond=lengths.longer_than(context_length),
        limit_x=limit_x if 0 <= limit_x < width else None,
    )


def _number(length: int) -> int:
    return max(1, bisect_left(BOUNDS, length))
