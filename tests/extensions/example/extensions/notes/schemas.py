"""Schemas of notes."""

from typing import Annotated

from pydantic import BaseModel, StringConstraints

from gateway.schemas import Answer


class NoteForm(BaseModel):
    """A note to write."""

    text: Annotated[str, StringConstraints(min_length=1, max_length=200)]


class NoteAnswer(Answer):
    """A note."""

    text: str
