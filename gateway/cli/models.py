"""`ecolink models`: list, download, deploy and use models."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote
from uuid import uuid4

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from domain.deployments.deployment import DeploymentStatus
from domain.exports.export import ExportFormat, ExportStatus
from domain.exports.hub_push import PushStatus
from gateway.cli.client import Client, Reply
from gateway.cli.downloads import Directory, fetch
from gateway.cli.exits import ExitCode
from gateway.cli.following import breathe, patiently
from gateway.cli.tables import listing, listing_of, pairs, selected, tame
from gateway.cli.terminal import CommandGroup, bar, client_of, for_programs, interrupted, note, show
from gateway.exports.schemas import ExportAnswer, PushAnswer
from gateway.models.schemas import DeploymentAnswer, Models
from gateway.schemas import Listed

TEMPERATURE = 0.7
"""Default temperature of `chat` and the playground. The API's 1 is too high for small models."""

DEPLOYED = {
    DeploymentStatus.ACTIVE: ExitCode.DONE,
    DeploymentStatus.FAILED: ExitCode.FAILED,
    DeploymentStatus.UNDEPLOYED: ExitCode.FAILED,
}
"""Exit codes by the status that ends the wait for a deployment."""

models = CommandGroup(no_args_is_help=True, help="List, download, deploy and use models.")

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
    """Return the message, given or read from standard input. Raise BadParameter if empty."""
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
    answer = client.send(DeploymentAnswer, path, {})
    model = quote(answer.model.model)
    try:
        while follow and answer.model.status not in DEPLOYED:
            breathe()
            answer = patiently(lambda: client.read(DeploymentAnswer, f"/models/{model}/deployment"))
    except KeyboardInterrupt:
        interrupted("\nThe deployment continues. `ecolink models deployments` shows it.")
    show(answer, _deployment)
    if follow:
        raise typer.Exit(DEPLOYED[answer.model.status])


@models.command()
def undeploy(client: Client, model: ModelName) -> None:
    """Undeploy a model or checkpoint, so that it no longer responds to requests.

    You can deploy a model again. EcoLink may delete an undeployed checkpoint, unless its job keeps
    it, for example because it is the newest or the best.
    """
    path = f"/models/{quote(model)}/undeploy"
    show(client.send(DeploymentAnswer, path, {}), _deployment)


def _deployment(answer: DeploymentAnswer) -> RenderableType:
    """Render a deployment with one field per line."""
    names = ("model", "status", "base_model", "job_id", "step", "requested_at", "changed_at")
    failure = answer.failure
    return pairs(
        selected(answer, *names)
        | {"failure": failure and failure.message, "advice": failure and failure.advice}
    )


@models.command("deployments")
def list_deployments(client: Client) -> None:
    """List deployments: base models, then your own models and checkpoints."""
    show(client.read(Listed[DeploymentAnswer], "/deployments"), _deployments)


def _deployments(answer: Listed[DeploymentAnswer]) -> RenderableType:
    names = ("model", "status", "base_model", "changed_at", "job_id")
    empty = "Nothing is deployed. `ecolink models deploy MODEL` deploys a model."
    return listing_of(answer.data, *names, empty=empty)


@models.command()
def export(
    client: Client,
    model: ModelName,
    format: Annotated[
        ExportFormat,
        typer.Option(
            help="safetensors for transformers and vLLM, a GGUF file for llama.cpp and Ollama."
        ),
    ] = ExportFormat.SAFETENSORS,
    to: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "--to",
            file_okay=False,
            help="Target directory.  \\[default: the name of the model and the format]",
            show_default=False,
        ),
    ] = None,
    download: Annotated[
        bool, typer.Option(help="Wait until the export is ready, and download it.")
    ] = True,
) -> None:
    """Merge a model into its base model, write it in a format, and download it.

    Repeat the command to resume an interrupted download.
    """
    path = f"/models/{quote(model)}/exports"
    answer = client.send(ExportAnswer, path, {"format": format})
    if not download:
        show(answer, _export)
        return
    answer = _exported(client, f"{path}/{format}", answer)
    if answer.model.status is not ExportStatus.READY:
        show(answer, _export)
        raise typer.Exit(ExitCode.FAILED)
    fetch(client, f"{path}/{format}", f"{model}-{format}", to)


def _exported(client: Client, path: str, answer: Reply[ExportAnswer]) -> Reply[ExportAnswer]:
    """Wait until an export ends. Show its progress."""
    try:
        with bar("exporting", 100) as advance:
            shown = 0
            while answer.model.status is ExportStatus.PENDING:
                done = round(100 * (answer.model.progress or 0))
                advance(done - shown)
                shown = done
                breathe()
                answer = patiently(lambda: client.read(ExportAnswer, path))
    except KeyboardInterrupt:
        interrupted("\nThe export continues. `ecolink models exports` shows it.")
    return answer


@models.command()
def push(
    client: Client,
    model: ModelName,
    repository: Annotated[str, typer.Argument(help="Repository, such as owner/name.")],
    format: Annotated[
        ExportFormat, typer.Option(help="Format of the export.")
    ] = ExportFormat.SAFETENSORS,
    private: Annotated[
        bool, typer.Option("--private/--public", help="Visibility of a new repository.")
    ] = True,
    provenance: Annotated[
        bool,
        typer.Option(
            help="Also push provenance.json, with the hashes of the dataset, the hyperparameters, "
            "the hardware and the cost of the job."
        ),
    ] = True,
    follow: Annotated[bool, typer.Option(help="Wait until the push ends.")] = True,
) -> None:
    """Push a ready export to a repository of a Hugging Face hub.

    The token is in the variable HF_TOKEN. Without it, the command asks for the token. The
    repository gets all files of the export, also the model card and export.json, which have the
    IDs of the account and the job.
    """
    token = os.environ.get("HF_TOKEN") or typer.prompt("Token of the hub", hide_input=True)
    path = f"/models/{quote(model)}"
    target = {"repository": repository, "private": private, "provenance": provenance}
    body = {**target, "token": token}
    answer = client.send(PushAnswer, f"{path}/exports/{format}/pushes", body, str(uuid4()))
    try:
        while follow and answer.model.status is PushStatus.PENDING:
            breathe()
            listed = patiently(lambda: client.read(Listed[PushAnswer], f"{path}/pushes"))
            found = next(each for each in listed.model.data if each.id == answer.model.id)
            answer = Reply(found.model_dump(mode="json"), found)
    except KeyboardInterrupt:
        interrupted("\nThe push continues. `ecolink models pushes` shows it.")
    show(answer, _push)
    if follow and answer.model.status is not PushStatus.COMPLETED:
        raise typer.Exit(ExitCode.FAILED)


@models.command("pushes")
def list_pushes(client: Client, model: ModelName) -> None:
    """List the pushes of a model to a hub."""
    show(client.read(Listed[PushAnswer], f"/models/{quote(model)}/pushes"), _pushes)


def _pushes(answer: Listed[PushAnswer]) -> RenderableType:
    names = ("repository", "format", "status", "requested_at", "commit")
    empty = "There are no pushes. `ecolink models push MODEL REPOSITORY` requests one."
    return listing_of(answer.data, *names, empty=empty)


def _push(answer: PushAnswer) -> RenderableType:
    """Render a push with one field per line."""
    names = ("model", "format", "repository", "private", "provenance", "status", "commit", "url")
    failure = answer.failure
    return pairs(
        selected(answer, *names)
        | {"failure": failure and failure.message, "advice": failure and failure.advice}
    )


@models.command("exports")
def list_exports(client: Client, model: ModelName) -> None:
    """List the exports of a model."""
    path = f"/models/{quote(model)}/exports"
    show(client.read(Listed[ExportAnswer], path), _exports)


@models.command("delete-export")
def delete_export(client: Client, model: ModelName, format: ExportFormat) -> None:
    """Delete an export and its files, or stop it."""
    path = f"/models/{quote(model)}/exports/{format}"
    client.delete(path)
    deleted = {"model": model, "format": format.value, "deleted": True}
    show(Reply(deleted, deleted), pairs)


def _exports(answer: Listed[ExportAnswer]) -> RenderableType:
    names = ("format", "status", "total_bytes", "ended_at", "expires_at")
    empty = "There are no exports. `ecolink models export MODEL` requests one."
    return listing_of(answer.data, *names, empty=empty)


def _export(answer: ExportAnswer) -> RenderableType:
    """Render an export with one field per line."""
    names = ("model", "format", "status", "requested_at", "ended_at", "expires_at", "total_bytes")
    failure = answer.failure
    return pairs(
        selected(answer, *names)
        | {"failure": failure and failure.message, "advice": failure and failure.advice}
    )
