"""The `ecolink` command with the groups of account holders, to which a server adds its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any
from uuid import UUID

import typer

from gateway.cli.billing import billing
from gateway.cli.datasets import datasets
from gateway.cli.endpoint import RemoteFinder
from gateway.cli.exits import epilog
from gateway.cli.jobs import jobs
from gateway.cli.keys import keys
from gateway.cli.models import models
from gateway.cli.session import session
from gateway.cli.terminal import Commands, Finder
from infrastructure.extensions import wanted
from infrastructure.process.secret_files import load_secret_files
from infrastructure.settings import Settings

ACCOUNT = "Account commands"

GROUPS = {
    "datasets": datasets,
    "jobs": jobs,
    "models": models,
    "billing": billing,
    "keys": keys,
}

SERVER_NEEDS = (
    "This installation has only the commands that call a remote EcoLink. To run a server, install "
    "its packages with `pip install 'ecolink[server,trainer]'`."
    if sys.platform == "linux"
    else "An EcoLink server runs on Linux. On macOS and Windows, run it in containers or in WSL 2."
)


class ClientCommands(Commands):
    """Group of the commands of an installation without the server."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the named command. The error of an unknown one says how to install a server."""
        try:
            return super().resolve_command(ctx, args)
        except typer.TyperException as error:
            error.message += f" {SERVER_NEEDS}"
            raise


def application(cls: type[Commands], finder: Callable[[Settings], Finder]) -> typer.Typer:
    """Return the command with the groups of account holders and of the extensions.

    `finder` finds the gateway and the API key.
    """
    main = typer.Typer(
        name="ecolink",
        cls=cls,
        help="A self-hosted fine-tuning cloud.",
        no_args_is_help=True,
        epilog=epilog(),
        pretty_exceptions_show_locals=False,  # local variables can contain passwords
    )
    main.add_typer(session, rich_help_panel=ACCOUNT)
    for name, group in GROUPS.items():
        main.add_typer(group, name=name, rich_help_panel=ACCOUNT, epilog=epilog())

    @main.callback()
    def root(
        ctx: typer.Context,
        url: Annotated[
            str | None,
            typer.Option(
                help="URL of the gateway. Default: ECOLINK_GATEWAY_URL, then `ecolink login`, "
                "then the EcoLink on this machine."
            ),
        ] = None,
        key: Annotated[
            str | None,
            typer.Option(help="API key. Default: ECOLINK_API_KEY, then `ecolink login`."),
        ] = None,
        account: Annotated[
            UUID | None,
            typer.Option(
                help="Account to read, for auditors only. See `ecolink billing accounts`."
            ),
        ] = None,
    ) -> None:
        """A self-hosted fine-tuning cloud."""
        load_secret_files()
        given = {"gateway_url": url, "api_key": key, "account": account}
        settings = Settings().model_copy(
            update={field: value for field, value in given.items() if value is not None}
        )
        ctx.obj = finder(settings)

    return main


def _add_extensions() -> None:
    for extension in wanted():  # they need no packages: only the server does
        for name, reference in extension.commands.items():
            group = extension.load(reference)
            if name in GROUPS:
                GROUPS[name].add_typer(group)
            else:
                GROUPS[name] = group


_add_extensions()


def main() -> None:
    """Run the command of an installation without the server."""
    application(ClientCommands, RemoteFinder)()
