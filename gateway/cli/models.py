"""`ecolink models`: base models, and the models that jobs made."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from gateway.cli import tables
from gateway.cli.chatting import chat
from gateway.cli.deploying import give_deployment
from gateway.cli.downloads import Directory, fetch
from gateway.cli.terminal import AsJson, client_of, show

models = typer.Typer(no_args_is_help=True, help="Base models, and the models that jobs made.")

models.command()(chat)

ModelName = Annotated[str, typer.Argument(help="Such as ft:...", show_default=False)]


@models.command("list")
def list_models(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Base models, and your own."""
    with client_of(ctx) as client:
        show(client.get("/models"), as_json, tables.models)


@models.command("download")
def download_model(
    ctx: typer.Context, model: ModelName, to: Directory = None, as_json: AsJson = False
) -> None:
    """Download a model of yours as PEFT loads it; what was cut off goes on, all is checked."""
    with client_of(ctx) as client:
        fetch(client, f"/models/{quote(model)}", model, to, as_json)


@models.command()
def deploy(
    ctx: typer.Context,
    model: ModelName,
    follow: Annotated[
        bool, typer.Option(help="Wait until it answers; exit code 1 if it cannot be served.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Have a model of yours answer requests, attached to its base."""
    with client_of(ctx) as client:
        give_deployment(client, f"/models/{quote(model)}/deploy", follow, as_json)


@models.command()
def undeploy(ctx: typer.Context, model: ModelName, as_json: AsJson = False) -> None:
    """Have a model or checkpoint of yours answer no more.

    A model can be deployed again. A checkpoint may be deleted at once, unless it is one that its
    job keeps anyway, such as the newest or the best: then it cannot be deployed again.
    """
    with client_of(ctx) as client:
        show(client.post(f"/models/{quote(model)}/undeploy", {}), as_json, tables.deployment)


@models.command("deployments")
def list_deployments(ctx: typer.Context, as_json: AsJson = False) -> None:
    """What answers requests: the bases, then your own models and checkpoints."""
    with client_of(ctx) as client:
        show(client.get("/deployments"), as_json, tables.deployments)
