"""`ecolink projections`: read models, folded anew."""

from __future__ import annotations

from typing import Annotated

import typer

from deploy.operator import open_store
from domain.errors import NotFound
from projections import PROJECTIONS
from projections.rebuilding import rebuild

commands = typer.Typer(name="projections", no_args_is_help=True, help="Fold read models anew.")

NAMED = {projection.name: projection for projection in PROJECTIONS}


@commands.command("rebuild")
def rebuild_projection(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(NAMED)}.", show_default=False)],
) -> None:
    """Fold a read model anew from the first event, as one step; EcoLink may run meanwhile.

    For a table of which `ecolink audit verify` says that it differs.
    """
    with open_store() as store:
        if name not in NAMED:
            raise NotFound(f"There is no read model {name}; there are {', '.join(NAMED)}.")
        events = rebuild(store.connection, NAMED[name], store.log)
    typer.echo(f"Folded {events} events into {name}.")
