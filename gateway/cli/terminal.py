"""What the account holder's commands share: finding the gateway, and how answers are shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console

from gateway.client import Client, ClientError, Endpoint

PIPE_COLUMNS = 200

errors = Console(stderr=True, highlight=False)

Locate = Callable[[], Endpoint]
"""Finds the gateway, or raises ClientError; whoever assembles the commands puts it in `ctx.obj`."""

AsJson = Annotated[bool, typer.Option("--json", help="Print the API's answer as it is.")]


@contextmanager
def client_of(ctx: typer.Context) -> Generator[Client]:
    """A client of the located gateway; an error is one sentence, and exit status 1."""
    locate: Locate = ctx.obj
    try:
        with Client(locate()) as client:
            yield client
    except (ClientError, OSError) as error:
        errors.print(str(error), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None


def screen() -> Console:
    """Standard output, without markup; wide in a pipe, since what reads it wants whole ids."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = PIPE_COLUMNS
    return console


def show(answer: dict[str, Any], as_json: bool, draw: Callable[[dict[str, Any]], object]) -> None:
    """Print an answer as JSON or drawn."""
    if as_json:
        print(json.dumps(answer, indent=1))
    else:
        screen().print(draw(answer))
