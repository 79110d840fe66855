"""`ecolink security`, which shows security events and the current limits."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.operator.store import open_store
from infrastructure import security_log
from infrastructure.limits import TABLE, Limits
from infrastructure.settings import Settings

commands = typer.Typer(
    name="security", no_args_is_help=True, help="Show security events and limits."
)
console = Console(highlight=False, markup=False)


@commands.command()
def events(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of events.")] = 100,
) -> None:
    """Show lockouts and repeated refusals with the client's address, newest first.

    EcoLink deletes these events after ECOLINK_SECURITY_DAYS days.
    """
    with open_store() as store:
        rows = security_log.newest(store.connection, limit)
    if not rows:
        console.print("There are no security events.")
    for row in rows:
        at = f"{row['happened_at']:%Y-%m-%dT%H:%M:%SZ}"
        print(f"{at}  {row['kind']:<17}  {row['address']:<39}  {row['detail']}")


@commands.command()
def limits() -> None:
    """Show all limits with their defaults and scopes. Set ECOLINK_LIMITS to change them."""
    now = Limits(Settings().limits)
    table = Table(box=None, pad_edge=False)
    for heading in ("limit", "value", "default", "scope", "counts"):
        table.add_column(heading, justify="right" if heading in ("value", "default") else "left")
    for limit in TABLE:
        per = f" / {limit.per_seconds} s" if limit.per_seconds else ""
        values = (f"{now[limit.name]:,}{per}", f"{limit.default:,}{per}")
        table.add_row(limit.name, *values, limit.scope, limit.description)
    console.print(table)
