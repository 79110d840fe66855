"""Paging of lists, with a limit, a cursor, and a flag for further pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import Field

from gateway.schemas import Answer

MOST_POSITION = 2**63 - 1
"""Largest position. Positions are bigints in the database."""

T = TypeVar("T")
R = TypeVar("R")

LARGEST_PAGE = 10_000
"""Maximum number of rows per page. A long job has a million steps."""

Limit = Annotated[int, Query(ge=1, le=LARGEST_PAGE, description="Maximum number of objects.")]

After = Annotated[int, Query(ge=0, le=MOST_POSITION)]
"""Query parameter that returns only objects with a higher number."""


class Page(Answer, Generic[T]):
    """A page of a list. The next page begins after its last object."""

    data: list[T]
    has_more: bool = Field(description="True if more objects follow.")

    @classmethod
    def of(cls, read: Callable[[int], Sequence[R]], limit: int, show: Callable[[R], T]) -> Page[T]:
        """Return a page of at most `limit` rows, after reading one more for `has_more`."""
        rows = read(limit + 1)
        return cls(data=[show(row) for row in rows[:limit]], has_more=len(rows) > limit)
