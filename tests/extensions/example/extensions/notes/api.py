"""Routes of notes under /api, and the number that the health page shows."""

from __future__ import annotations

from uuid import uuid4

from extensions.notes.note import Note
from extensions.notes.schemas import NoteForm, NoteResponse
from fastapi import APIRouter

from domain.core.aggregate import because
from gateway.backend import Backend, BackendOf
from gateway.http.operations import Operation
from gateway.http.permissions import MayRead, MayTrain
from gateway.schemas import Listed
from infrastructure.postgres.store import scalar

router = APIRouter(prefix="/notes", tags=["notes"], route_class=Operation)


@router.post("", status_code=201)
def write_note(form: NoteForm, caller: MayTrain, backend: BackendOf) -> NoteResponse:
    """Write a note."""
    note_id, now = uuid4(), backend.clock.now()
    row = [note_id, caller.account_id, form.text, now]
    with backend.pool.connection() as connection, because(caller.cause(backend)):
        connection.execute("INSERT INTO notes VALUES (%s, %s, %s, %s)", row)
        backend.log.commit(Note.write(note_id, caller.account_id, form.text))
    return NoteResponse(text=form.text)


@router.get("")
def list_notes(caller: MayRead, backend: BackendOf) -> Listed[NoteResponse]:
    """List your notes, the oldest first."""
    query = "SELECT text FROM notes WHERE account_id = %s ORDER BY written_at"
    with backend.pool.connection() as connection:
        rows = connection.execute(query, [caller.account_id]).fetchall()
    return Listed(data=[NoteResponse(text=row["text"]) for row in rows])


def count(backend: Backend) -> int:
    """Return the number of notes of all accounts."""
    with backend.pool.connection() as connection:
        return scalar(connection, "SELECT count(*) FROM notes")
