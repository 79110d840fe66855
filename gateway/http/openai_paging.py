"""Pages of lists, as the client asks for them: so many things after one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Generic, Literal, TypeVar

from fastapi import Query

from gateway.schemas import Answer

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


def page_from(
    things: Sequence[R],
    id_of: Callable[[R], str],
    limit: int,
    show: Callable[[Sequence[R]], list[T]],
) -> Page[T]:
    """The page of the first things; one beyond the limit says that there are more.

    Only what is on the page is shown.
    """
    here = things[:limit]
    return Page(
        data=show(here),
        first_id=id_of(here[0]) if here else None,
        last_id=id_of(here[-1]) if here else None,
        has_more=len(things) > limit,
    )
