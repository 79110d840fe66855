"""The `ecolink` command, assembled from each room's own commands."""

from __future__ import annotations

import typer

from deploy.local.commands import commands as local_commands

main = typer.Typer(
    name="ecolink",
    help="A self-hosted fine-tuning cloud.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # they would print passwords
)
main.add_typer(local_commands)
