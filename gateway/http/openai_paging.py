"""Pages of lists, by limit and cursor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Generic, Literal, TypeVar

from fastapi import Query

from gateway.schemas import ResponseModel

T = TypeVar("T")
R = TypeVar("R")

AfterOf = Annotated[str | None, Query(description="ID of the last object of the previous page.")]
LimitOf = Annotated[int, Query(ge=1, le=100)]


class Page(ResponseModel, Generic[T]):
    """A page of a list."""

    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool


def page_from(
    things: Sequence[R],
    id_of: Callable[[R], str],
    limit: int,
    show: Callable[[Sequence[R]], list[T]],
) -> Page[T]:
    """Return a page of at most `limit` objects. One object more determines `has_more`."""
    here = things[:limit]
    return Page(
        data=show(here),
        first_id=id_of(here[0]) if here else None,
        last_id=id_of(here[-1]) if here else None,
        has_more=len(things) > limit,
    )
