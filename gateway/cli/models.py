"""`ecolink models`: list, download, deploy and use models."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from domain.deployments.deployment import DeploymentStatus
from gateway.cli.client import Client
from gateway.cli.downloads import Directory, fetch
from gateway.cli.exits import ExitCode
from gateway.cli.following import breathe, patiently
from gateway.cli.tables import listing, pairs, tame
from gateway.cli.terminal import AsJson, client_of, interrupted, note, show
from gateway.models.schemas import DeploymentAnswer, Models
from gateway.schemas import Listed, job_name

TEMPERATURE = 0.7
"""Default temperature of `chat` and the playground. The API's 1 is too high for small models."""

DEPLOYED = {
    DeploymentStatus.ACTIVE: ExitCode.DONE,
    DeploymentStatus.FAILED: ExitCode.FAILED,
    DeploymentStatus.UNDEPLOYED: ExitCode.FAILED,
}
"""Exit codes by the status that ends the wait for a deployment."""

models = typer.Typer(no_args_is_help=True, help="List, download, deploy and use models.")

ModelName = Annotated[str, typer.Argument(help="Name, such as ft:...", show_default=False)]


@models.command()
def chat(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="A base model, ft:..., or a deployed checkpoint.")],
    prompt: Annotated[
        str | None, typer.Argument(help="Message to the model.  \\[default: standard input]")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Limit of the answer.")] = None,
    temperature: Annotated[
        float, typer.Option(min=0.0, max=2.0, help="0 always takes the most likely token.")
    ] = TEMPERATURE,
    top_p: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Share of the most likely tokens to sample from."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Repeats the answer.")] = None,
    as_json: AsJson = False,
) -> None:
    """Send a message to a deployed model. --json prints the response in OpenAI's format."""
    said = _prompt(prompt)
    options = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    body: dict[str, Any] = {
        "model": model,
        "messages": [
            *([] if system is None else [{"role": "system", "content": system}]),
            {"role": "user", "content": said},
        ],
        **{name: value for name, value in options.items() if value is not None},
    }
    with client_of(ctx) as client:
        if as_json:
            (answer,) = client.chat(body)
            print(json.dumps(answer, indent=1))
        else:
            _print_chunks(client.chat(body | {"stream": True}))


def _prompt(prompt: str | None) -> str:
    """Return the message, given or read from standard input. Raises BadParameter if empty."""
    if prompt is None and sys.stdin.isatty():
        note("Type the message. Ctrl-D sends it.")
    said = sys.stdin.read().strip() if prompt is None else prompt
    if not said:
        raise typer.BadParameter("Give a message, as an argument or on standard input.")
    return said


def _print_chunks(chunks: Iterable[dict[str, Any]]) -> None:
    for chunk in chunks:
        for choice in chunk["choices"]:
            print(tame(choice["delta"].get("content") or ""), end="", flush=True)
    print()


@models.command("list")
def list_models(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List base models and your own models."""
    with client_of(ctx) as client:
        show(client.read(Models, "/models"), as_json, _models)


def _models(answer: Models) -> RenderableType:
    """Render base models, then registered models, then the last checkpoints of stopped jobs."""
    bases = listing(
        (
            {
                "name": each.name,
                "parameters": each.parameters,
                "context length": each.context_length,
                "deployment": each.deployment,
                "architecture": each.architecture,
                "imported at": each.imported_at,
            }
            for each in answer.base_models
        ),
        empty="There are no base models. An operator imports them.",
    )
    own = listing(
        (
            {
                "model": each.model,
                "deployment": each.deployment,
                "registered at": each.registered_at,
                "job": job_name(each.job_id),
            }
            for each in answer.models
        ),
        empty="You have no models yet. Models appear here when a job finishes.",
    )
    if not answer.kept:
        return Group(bases, Text(), own)
    kept = listing(
        {
            "job": job_name(each.job_id),
            "status": each.status,
            "step": each.step,
            "kept until": each.expires_at,
        }
        for each in answer.kept
    )
    title = Text("\nCheckpoints of stopped jobs. `ecolink jobs promote JOB` registers a model:")
    return Group(bases, Text(), own, title, kept)


@models.command("download")
def download_model(
    ctx: typer.Context, model: ModelName, to: Directory = None, as_json: AsJson = False
) -> None:
    """Download a model in PEFT format. Repeat the command to resume an interrupted download."""
    with client_of(ctx) as client:
        fetch(client, f"/models/{quote(model)}", model, to, as_json)


@models.command()
def deploy(
    ctx: typer.Context,
    model: ModelName,
    follow: Annotated[
        bool, typer.Option(help="Wait until the deployment is active. Exit code 1 if it fails.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Deploy a model, so that it answers requests. Its base model must be deployed."""
    with client_of(ctx) as client:
        give_deployment(client, f"/models/{quote(model)}/deploy", follow, as_json)


def give_deployment(client: Client, path: str, follow: bool, as_json: bool) -> None:
    """Request a deployment, and wait until it is active or failed. Raises ClientError."""
    answer = client.send(DeploymentAnswer, path, {})
    model = quote(answer.model.model)
    try:
        while follow and answer.model.status not in DEPLOYED:
            breathe()
            answer = patiently(lambda: client.read(DeploymentAnswer, f"/models/{model}/deployment"))
    except KeyboardInterrupt:
        interrupted("\nThe deployment continues. `ecolink models deployments` shows it.")
    show(answer, as_json, _deployment)
    if follow:
        raise typer.Exit(DEPLOYED[answer.model.status])


@models.command()
def undeploy(ctx: typer.Context, model: ModelName, as_json: AsJson = False) -> None:
    """Undeploy a model or checkpoint, so that it no longer answers requests.

    You can deploy a model again. EcoLink may delete an undeployed checkpoint, unless its job keeps
    it, for example because it is the newest or the best.
    """
    with client_of(ctx) as client:
        path = f"/models/{quote(model)}/undeploy"
        show(client.send(DeploymentAnswer, path, {}), as_json, _deployment)


def _deployment(answer: DeploymentAnswer) -> RenderableType:
    """Render a deployment with one field per line."""
    return pairs(
        {
            "model": answer.model,
            "status": answer.status,
            "base model": answer.base_model,
            "job": answer.job_id and job_name(answer.job_id),
            "step": answer.step,
            "requested at": answer.requested_at,
            "changed at": answer.changed_at,
            "failure": answer.failure and answer.failure.message,
            "advice": answer.failure and answer.failure.advice,
        }
    )


@models.command("deployments")
def list_deployments(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List deployments: base models, then your own models and checkpoints."""
    with client_of(ctx) as client:
        show(client.read(Listed[DeploymentAnswer], "/deployments"), as_json, _deployments)


def _deployments(answer: Listed[DeploymentAnswer]) -> RenderableType:
    return listing(
        (
            {
                "model": each.model,
                "status": each.status,
                "base model": each.base_model,
                "changed at": each.changed_at,
                "job": each.job_id and job_name(each.job_id),
            }
            for each in answer.data
        ),
        empty="Nothing is deployed. `ecolink models deploy MODEL` deploys a model.",
    )
