"""`ecolink docker init`, which prepares an installation in containers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploy.docker.secrets import KEYS, prepare
from deploy.local.errors import StackError
from gateway.cli.exits import ExitCode
from gateway.cli.terminal import fail

commands = typer.Typer(no_args_is_help=True, help="Prepare an installation in containers.")


@commands.callback()
def group() -> None:
    """Prepare an installation in containers."""


@commands.command()
def init(
    directory: Annotated[
        Path,
        typer.Argument(help="Directory for the secrets. EcoLink creates it if it does not exist."),
    ],
) -> None:
    """Write the passwords and keys that deploy/docker/compose.yaml needs.

    EcoLink generates them once, and keeps those that exist. Include the directory in your backups.
    """
    try:
        written = prepare(directory)
    except StackError as error:
        fail(str(error), ExitCode.FAILED)
    print(f"Wrote {len(written)} secrets to {directory}. Keep a copy of {directory / KEYS}.")
