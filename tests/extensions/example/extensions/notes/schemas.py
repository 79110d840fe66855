"""Schemas of notes."""

from typing import Annotated

from pydantic import BaseModel, StringConstraints

from gateway.schemas import ResponseModel


class NoteForm(BaseModel):
    """A note to write."""

    text: Annotated[str, StringConstraints(min_length=1, max_length=200)]


class NoteResponse(ResponseModel):
    """A note."""

    text: str
