"""Pages of lists: how many at most, what they begin after, and whether there are more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import Field

from gateway.answers import Answer

MOST_POSITION = 2**63 - 1
"""Positions are bigint in the database."""

T = TypeVar("T")
R = TypeVar("R")

Limit = Annotated[int | None, Query(ge=1, le=10_000, description="At most so many; else all.")]


class Page(Answer, Generic[T]):
    """Some of a list; the next page begins after the last of these."""

    data: list[T]
    has_more: bool = Field(description="Whether there are more after these.")


def one_more(limit: int | None) -> int | None:
    """How many rows to read for a page of `limit`, so as to know whether there are more."""
    return None if limit is None else limit + 1


def cut(rows: Sequence[R], limit: int | None) -> tuple[Sequence[R], bool]:
    """The rows of a page, of those that were read, and whether there are more."""
    return rows[:limit], limit is not None and len(rows) > limit
