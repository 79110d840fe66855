"""`ecolink notes`."""

from __future__ import annotations

from extensions.notes.schemas import NoteResponse

from gateway.cli.client import Client
from gateway.cli.tables import listing
from gateway.cli.terminal import CommandGroup, show
from gateway.schemas import Listed

notes = CommandGroup(no_args_is_help=True, help="Show your notes.")


@notes.command("list")
def list_notes(client: Client) -> None:
    """List your notes."""
    found = client.read(Listed[NoteResponse], "/notes")
    show(found, lambda answer: listing(({"text": each.text} for each in answer.data), empty="none"))
