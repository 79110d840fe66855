"""`ecolink projections`, which rebuilds read models."""

from __future__ import annotations

from typing import Annotated

import psycopg
import typer

from deploy.operator.store import open_store
from deploy.progress import RebuildProgress
from domain.core.errors import Invalid
from gateway.cli.exits import ExitCode
from gateway.cli.terminal import fail
from projections import PROJECTIONS
from projections.rebuilding import rebuild

commands = typer.Typer(name="projections", no_args_is_help=True, help="Rebuild read models.")

NAMED = {projection.name: projection for projection in PROJECTIONS}


@commands.command("rebuild")
def rebuild_projection(
    name: Annotated[
        str,
        typer.Argument(
            help=f"Name of the read model: one of {', '.join(NAMED)}.", show_default=False
        ),
    ],
) -> None:
    """Rebuild a read model from the first event while EcoLink runs.

    Use this command if `ecolink audit verify` reports a difference. Readers see the old rows until
    all new rows are ready.
    """
    if name not in NAMED:
        fail(f"Unknown read model {name!r}. Choose one of {', '.join(NAMED)}.", ExitCode.FAILED)
    with open_store() as store:
        url = store.settings.owner_database_url or store.settings.database_url
        assert url is not None
        try:
            events = rebuild(url, [NAMED[name]], RebuildProgress())
        except psycopg.errors.InsufficientPrivilege as error:
            raise Invalid(
                "Only the owner of the tables can rebuild a read model. Set "
                "ECOLINK_OWNER_DATABASE_URL."
            ) from error
    typer.echo(f"Rebuilt {name} from {events:,} events.")
