"""Pages of lists, as the client asks for them: so many things after one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Generic, Literal, TypeVar

from fastapi import Query

from domain.errors import Invalid
from gateway.answers import Answer

T = TypeVar("T")
R = TypeVar("R")

AfterOf = Annotated[str | None, Query(description="The id of the last thing that is known.")]
LimitOf = Annotated[int, Query(ge=1, le=100)]


class Page(Answer, Generic[T]):
    """A part of a list."""

    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool


def page_of(
    things: Sequence[R],
    id_of: Callable[[R], str],
    after: str | None,
    limit: int,
    show: Callable[[Sequence[R]], list[T]],
) -> Page[T]:
    """The page after a thing; only what is on it is shown. Raises Invalid for an unknown id."""
    ids = [id_of(each) for each in things]
    start = 0
    if after is not None:
        if after not in ids:
            raise Invalid(f"no {after} in this list", field="after")
        start = ids.index(after) + 1
    stop = start + limit
    return Page(
        data=show(things[start:stop]),
        first_id=ids[start] if start < len(ids) else None,
        last_id=ids[min(stop, len(ids)) - 1] if start < len(ids) else None,
        has_more=stop < len(ids),
    )
