"""The event and the table of notes."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from eventsourcing.domain import event

from domain.core.aggregate import Aggregate, Created
from infrastructure.extensions import Table

NOTES = Table(
    name="notes",
    owner="account_id",
    time="written_at",
    ddl="CREATE TABLE IF NOT EXISTS notes (note_id uuid PRIMARY KEY, account_id uuid NOT NULL, "
    "text text NOT NULL, written_at timestamptz NOT NULL)",
)


class Note(Aggregate):
    """A note. The events do not have its text, so that an erasure can delete it."""

    TOPIC: ClassVar[str] = "Note"

    class Event(Aggregate.Event):
        """Base class of the events of a note."""

    class NoteWritten(Event, Created):
        """The account holder wrote a note."""

        characters: int

    @classmethod
    def write(cls, id: UUID, account_id: UUID, text: str) -> Note:
        """Return a new note."""
        return cls._create(cls.NoteWritten, id=id, account_id=account_id, characters=len(text))

    @event(NoteWritten)
    def __init__(self, event: Note.NoteWritten) -> None:
        self.account_id = event.account_id
