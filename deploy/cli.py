"""The `ecolink` command, assembled from each room's own commands."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from deploy import operator
from deploy.auditing import commands as audit_commands
from deploy.bench.commands import commands as bench_commands
from deploy.catalog import commands as catalog_commands
from deploy.demo.commands import commands as demo_commands
from deploy.endpoint import find_endpoint
from deploy.estimates import commands as estimates_commands
from deploy.events import commands as events_commands
from deploy.local.commands import commands as local_commands
from deploy.models import verify_model
from gateway import cli as client
from infrastructure.settings import Settings

main = typer.Typer(
    name="ecolink",
    help="A self-hosted fine-tuning cloud.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # they would print passwords
)
main.add_typer(local_commands)
main.add_typer(demo_commands)
client.models.command("import")(operator.import_model)
client.models.command("verify")(verify_model)
main.add_typer(audit_commands)
main.add_typer(bench_commands)
main.add_typer(catalog_commands)
main.add_typer(estimates_commands)
main.add_typer(events_commands)
for name, group in (client.GROUPS | operator.GROUPS).items():
    main.add_typer(group, name=name)


@main.callback()
def root(
    ctx: typer.Context,
    url: Annotated[
        str | None, typer.Option(help="The gateway; else ECOLINK_GATEWAY_URL, else this machine's.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="API key; else ECOLINK_API_KEY.")] = None,
) -> None:
    """A self-hosted fine-tuning cloud."""
    given = {"gateway_url": url, "api_key": key}
    settings = Settings().model_copy(
        update={field: value for field, value in given.items() if value is not None}
    )
    ctx.obj = partial(find_endpoint, settings)
