"""What the answers of every resource share: their base, lists, money, and the ids of jobs."""

from __future__ import annotations

from typing import Annotated, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from domain.money import Toward, dollars, exact_dollars

JOB_PREFIX = "ftjob-"

T = TypeVar("T")


class Answer(BaseModel):
    """Base of every answer."""

    model_config = ConfigDict(frozen=True)


class Listed(Answer, Generic[T]):
    """Several things of one kind."""

    data: list[T]


class Money(Answer):
    """An amount of US dollars: exact in millionths, and in cents for people.

    The text of a price is exact.
    """

    micros: int = Field(examples=[25_000_000])
    text: str = Field(examples=["$25.00"])

    @classmethod
    def of(cls, micros: int, toward: Toward = Toward.NEAREST) -> Money:
        """The answer for an amount in micro-dollars; its text is rounded to cents."""
        return cls(micros=micros, text=dollars(micros, toward))

    @classmethod
    def price(cls, micros: int) -> Money:
        """The answer for a price in micro-dollars, which is not rounded."""
        return cls(micros=micros, text=exact_dollars(micros))


def job_name(job_id: UUID) -> str:
    """The name under which people know a job; events know its UUID."""
    return f"{JOB_PREFIX}{job_id.hex}"


def _without_prefix(value: object) -> object:
    return value.removeprefix(JOB_PREFIX) if isinstance(value, str) else value


JobId = Annotated[
    UUID,
    BeforeValidator(_without_prefix),
    PlainSerializer(job_name, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": f"^{JOB_PREFIX}[0-9a-f]{{32}}$",
            "description": "`ftjob-` and the job's UUID in hexadecimal; a bare UUID also names it.",
            "examples": ["ftjob-0b0f8f5c3a4e5d0c9a4d0e6b1c2d3e4f"],
        }
    ),
]
