"""`ecolink keys`: the API keys of your account."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from gateway.cli.client import Client
from gateway.cli.tables import fields, listing
from gateway.cli.terminal import CommandGroup, note, show
from gateway.keys.schemas import KeyAnswer, NewKey
from gateway.schemas import Listed

keys = CommandGroup(no_args_is_help=True, help="Create, list and revoke API keys.")


@keys.command()
def create(client: Client) -> None:
    """Create an API key and print its secret, which is shown only once."""
    key = client.send(NewKey, "/keys", {})
    note(f"Key {key.model.id}. Save the secret: EcoLink does not show it again.")
    show(key, lambda new: Text(new.secret))  # only the secret, so it can be piped


@keys.command("list")
def list_keys(client: Client) -> None:
    """List your API keys, with the last characters of their secrets."""
    show(client.read(Listed[KeyAnswer], "/keys"), _keys)


def _keys(answer: Listed[KeyAnswer]) -> RenderableType:
    return listing(
        (
            {
                "id": key.id,
                "ends in": key.hint,
                "issued at": key.issued_at,
                "revoked at": key.revoked_at,
                "note": "used by these commands" if key.current else None,
            }
            for key in answer.data
        ),
        empty="You have no API keys.",
    )


@keys.command()
def revoke(
    client: Client,
    key: Annotated[str, typer.Argument(help="ID of the key.", show_default=False)],
) -> None:
    """Revoke an API key immediately."""
    revoked = client.send(KeyAnswer, f"/keys/{key}/revoke", {})
    if revoked.model.current:
        note("These commands use the revoked key. Save another key with `ecolink login`.")
    show(revoked, fields)
