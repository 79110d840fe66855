"""Shared schemas: base class, lists, money and job IDs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from domain.core.money import Toward, dollars, exact_dollars
from domain.jobs.public_id import JOB_PREFIX, job_name

SHOWN_CHARACTERS = 60

T = TypeVar("T")
R = TypeVar("R")


class ResponseModel(BaseModel):
    """Base class of all schemas."""

    model_config = ConfigDict(frozen=True)


class Listed(ResponseModel, Generic[T]):
    """A list of objects."""

    data: list[T]


class Page(ResponseModel, Generic[T]):
    """A page of a list. The next page begins after its last object."""

    data: list[T]
    has_more: bool = Field(description="True if more objects follow.")

    @classmethod
    def of(cls, read: Callable[[int], Sequence[R]], limit: int, show: Callable[[R], T]) -> Page[T]:
        """Return a page of at most `limit` rows, after reading one more for `has_more`."""
        rows = read(limit + 1)
        return cls(data=[show(row) for row in rows[:limit]], has_more=len(rows) > limit)


class Money(ResponseModel):
    """An amount in US dollars. `micros` is exact. `text` is in whole cents, or exact for prices."""

    micros: int = Field(examples=[25_000_000])
    text: str = Field(examples=["$25.00"])

    @classmethod
    def of(cls, micros: int, toward: Toward = Toward.NEAREST) -> Money:
        """Return an amount in micro-dollars. Its text is rounded to cents."""
        return cls(micros=micros, text=dollars(micros, toward))

    @classmethod
    def price(cls, micros: int) -> Money:
        """Return a price in micro-dollars. Its text is not rounded."""
        return cls(micros=micros, text=exact_dollars(micros))


def parsed_job_id(text: str) -> UUID:
    """Return the UUID in a job ID, with or without prefix, or raise ValueError."""
    try:
        return UUID(text.removeprefix(JOB_PREFIX))
    except ValueError:
        shown = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
        raise ValueError(
            f"{shown!r} is not a job ID. A job ID is `{JOB_PREFIX}` and 32 hexadecimal digits. "
            "`ecolink jobs list` and GET /api/jobs show yours."
        ) from None


def _parsed(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parsed_job_id(value)
    except ValueError as error:
        raise PydanticCustomError("job_id", "{why}", {"why": str(error)}) from None


JobId = Annotated[
    UUID,
    BeforeValidator(_parsed),
    PlainSerializer(job_name, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": f"^{JOB_PREFIX}[0-9a-f]{{32}}$",
            "description": (
                "`ftjob-` and the job's UUID in hexadecimal. A bare UUID is accepted too."
            ),
            "examples": ["ftjob-0b0f8f5c3a4e5d0c9a4d0e6b1c2d3e4f"],
        }
    ),
]
