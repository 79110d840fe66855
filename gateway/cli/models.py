"""`ecolink models`: base models, and the models that jobs made."""

from __future__ import annotations

import typer

from gateway import tables
from gateway.cli.terminal import AsJson, client_of, show

models = typer.Typer(no_args_is_help=True, help="Base models, and the models that jobs made.")


@models.command("list")
def list_models(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Base models, and your own."""
    with client_of(ctx) as client:
        show(client.get("/models"), as_json, tables.models)
