"""`ecolink keys`: the API keys of your account."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli import tables
from gateway.cli.terminal import AsJson, client_of, note, show

keys = typer.Typer(no_args_is_help=True, help="The API keys of your account.")


@keys.command()
def create(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Make an API key; its secret is printed this once."""
    with client_of(ctx) as client:
        key = client.post("/keys", {})
    note(f"Key {key['id']}. Keep its secret, it is not shown again:")
    show(key, as_json, tables.secret)


@keys.command("list")
def list_keys(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Your keys, told apart by the last characters of their secrets."""
    with client_of(ctx) as client:
        show(client.get("/keys"), as_json, tables.keys)


@keys.command()
def revoke(
    ctx: typer.Context,
    key: Annotated[str, typer.Argument(help="Id of the key.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """End a key at once; nothing can be done with it any more."""
    with client_of(ctx) as client:
        revoked = client.post(f"/keys/{key}/revoke", {})
    if revoked["current"]:
        note("That was the key that these commands use; `ecolink login` takes another.")
    show(revoked, as_json, tables.fields)
