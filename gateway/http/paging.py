"""Pages of lists: how many at most, what they begin after, and whether there are more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import Field

from gateway.schemas import Answer

MOST_POSITION = 2**63 - 1
"""Positions are bigint in the database."""

T = TypeVar("T")
R = TypeVar("R")

LARGEST_PAGE = 10_000
"""Rows; a long job has a million steps, which no answer is to hold at once."""

Limit = Annotated[int, Query(ge=1, le=LARGEST_PAGE, description="At most so many.")]

After = Annotated[int, Query(ge=0, le=MOST_POSITION)]
"""Of a list that is numbered: only what has a higher number."""


class Page(Answer, Generic[T]):
    """Some of a list; the next page begins after the last of these."""

    data: list[T]
    has_more: bool = Field(description="Whether there are more after these.")

    @classmethod
    def of(cls, read: Callable[[int], Sequence[R]], limit: int, show: Callable[[R], T]) -> Page[T]:
        """The page of at most `limit` rows that `read` reads; with one more it knows of more."""
        rows = read(limit + 1)
        return cls(data=[show(row) for row in rows[:limit]], has_more=len(rows) > limit)
