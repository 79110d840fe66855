"""`ecolink models`: list, download, deploy, use and delete models."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from domain.deployments.deployment import DeploymentStatus
from gateway.cli.client import Client, Reply
from gateway.cli.downloads import Directory, fetch
from gateway.cli.exits import ExitCode
from gateway.cli.following import followed
from gateway.cli.tables import failure_of, listing, listing_of, pairs, selected, tame
from gateway.cli.terminal import CommandGroup, client_of, for_programs, note, show
from gateway.models.schemas import DeploymentResponse, Models
from gateway.schemas import Listed

TEMPERATURE = 0.7
"""Default temperature of `chat` and the playground. The API's 1 is too high for small models."""

DEPLOYED = {
    DeploymentStatus.ACTIVE: ExitCode.DONE,
    DeploymentStatus.FAILED: ExitCode.FAILED,
    DeploymentStatus.UNDEPLOYED: ExitCode.FAILED,
}
"""Exit codes by the status that ends the wait for a deployment."""

models = CommandGroup(no_args_is_help=True, help="List, download, deploy, use and delete models.")

ModelName = Annotated[
    str, typer.Argument(help="Name of the model, such as ft:...", show_default=False)
]


@models.command()
def chat(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="Name of a base model, a fine-tuned model (ft:...) or a deployed checkpoint."
        ),
    ],
    prompt: Annotated[
        str | None, typer.Argument(help="Message to the model.  \\[default: standard input]")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of tokens to generate.")
    ] = None,
    temperature: Annotated[
        float,
        typer.Option(
            min=0.0, max=2.0, help="Sampling temperature. 0 always picks the most likely token."
        ),
    ] = TEMPERATURE,
    top_p: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="Probability mass of the most likely tokens to sample from."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of the sampling. The same seed gives the same response."),
    ] = None,
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
        if for_programs.get():
            (answer,) = client.chat(body)
            print(json.dumps(answer, indent=1))
        else:
            _print_chunks(client.chat(body | {"stream": True}))


def _prompt(prompt: str | None) -> str:
    if prompt is None and sys.stdin.isatty():
        note("Type the message. Ctrl-D sends it.")
    said = sys.stdin.read().strip() if prompt is None else prompt
    if not said:
        raise typer.BadParameter(
            "There is no message. Pass one as an argument or on standard input."
        )
    return said


def _print_chunks(chunks: Iterable[dict[str, Any]]) -> None:
    for chunk in chunks:
        for choice in chunk["choices"]:
            print(tame(choice["delta"].get("content") or ""), end="", flush=True)
    print()


@models.command("list")
def list_models(client: Client) -> None:
    """List base models and your own models."""
    show(client.read(Models, "/models"), _models)


def _models(answer: Models) -> RenderableType:
    """Render base models, then registered models, then the last checkpoints of stopped jobs."""
    bases = listing_of(
        answer.base_models,
        *("name", "parameters", "context_length", "deployment", "architecture", "imported_at"),
        empty="There are no base models. An operator imports them.",
    )
    own = listing_of(
        answer.models,
        *("model", "deployment", "registered_at", "job_id"),
        empty="You have no models yet. Models appear here when a job finishes.",
    )
    if not answer.kept:
        return Group(bases, Text(), own)
    kept = listing(
        selected(each, "job_id", "status", "step") | {"kept until": each.expires_at}
        for each in answer.kept
    )
    title = Text(
        "\nThese checkpoints belong to cancelled and failed jobs. `ecolink jobs "
        "promote JOB` registers one as a model:"
    )
    return Group(bases, Text(), own, title, kept)


@models.command("download")
def download_model(client: Client, model: ModelName, to: Directory = None) -> None:
    """Download a model in PEFT format. Repeat the command to resume an interrupted download."""
    fetch(client, f"/models/{quote(model)}", model, to)


@models.command()
def deploy(
    client: Client,
    model: ModelName,
    follow: Annotated[
        bool,
        typer.Option(
            help="Wait until the deployment is active. The exit code is 1 if the deployment fails."
        ),
    ] = True,
) -> None:
    """Deploy a model, so that it responds to requests. Its base model must be deployed."""
    give_deployment(client, f"/models/{quote(model)}/deploy", follow)


def give_deployment(client: Client, path: str, follow: bool) -> None:
    """Request a deployment, and wait until it is active or failed. Raise ClientError on failure."""
    answer = client.send(DeploymentResponse, path, {})
    if not follow:
        show(answer, _deployment)
        return
    answer = followed(
        answer,
        lambda deployment: deployment.status not in DEPLOYED,
        partial(client.read, DeploymentResponse, f"/models/{quote(answer.model.model)}/deployment"),
        "\nThe deployment continues. `ecolink models deployments` shows it.",
    )
    show(answer, _deployment)
    raise typer.Exit(DEPLOYED[answer.model.status])


@models.command()
def undeploy(client: Client, model: ModelName) -> None:
    """Undeploy a model or checkpoint, so that it no longer responds to requests.

    You can deploy a model again. EcoLink may delete an undeployed checkpoint, unless its job keeps
    it, for example because it is the newest or the best.
    """
    path = f"/models/{quote(model)}/undeploy"
    show(client.send(DeploymentResponse, path, {}), _deployment)


@models.command()
def delete(client: Client, model: ModelName) -> None:
    """Delete a model, its exports and all checkpoints of its job. Later requests to them fail.

    EcoLink keeps the job, its charges and its metrics.
    """
    client.delete(f"/models/{quote(model)}")
    deleted = {"model": model, "deleted": True}
    show(Reply(deleted, deleted), pairs)


def _deployment(answer: DeploymentResponse) -> RenderableType:
    names = ("model", "status", "base_model", "job_id", "step", "requested_at", "changed_at")
    return pairs(selected(answer, *names) | failure_of(answer))


@models.command("deployments")
def list_deployments(client: Client) -> None:
    """List deployments: base models, then your own models and checkpoints."""
    show(client.read(Listed[DeploymentResponse], "/deployments"), _deployments)


def _deployments(answer: Listed[DeploymentResponse]) -> RenderableType:
    names = ("model", "status", "base_model", "changed_at", "job_id")
    empty = "Nothing is deployed. `ecolink models deploy MODEL` deploys a model."
    return listing_of(answer.data, *names, empty=empty)
