"""`ecolink models export` and `push`: write models in other formats, and push them to a hub."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated
from urllib.parse import quote
from uuid import UUID, uuid4

import typer
from rich.console import RenderableType

from extensions.exports.domain.export import ExportFormat, ExportStatus
from extensions.exports.domain.hub_push import PushStatus
from extensions.exports.schemas import ExportResponse, PushResponse
from gateway.cli.client import Client, ClientError, Reply
from gateway.cli.downloads import fetch
from gateway.cli.exits import ExitCode
from gateway.cli.following import followed
from gateway.cli.models import ModelName
from gateway.cli.tables import failure_of, listing, pairs, selected
from gateway.cli.terminal import CommandGroup, counter, show
from gateway.schemas import Listed

commands = CommandGroup()

PERCENT = 100


@commands.command()
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
    answer = client.send(ExportResponse, path, {"format": format})
    if not download:
        show(answer, _export)
        return
    answer = _exported(client, f"{path}/{format}", answer)
    if answer.model.status is not ExportStatus.READY:
        show(answer, _export)
        raise typer.Exit(ExitCode.FAILED)
    fetch(client, f"{path}/{format}", f"{model}-{format}", to)


def _exported(client: Client, path: str, answer: Reply[ExportResponse]) -> Reply[ExportResponse]:
    """Wait until an export ends. Show its progress in percent."""
    shown = 0
    with counter("exporting", PERCENT) as advance:

        def progress(export: ExportResponse) -> None:
            nonlocal shown
            done = round(PERCENT * (export.progress or 0))
            advance(done - shown)
            shown = done

        return followed(
            answer,
            lambda export: export.status is ExportStatus.PENDING,
            partial(client.read, ExportResponse, path),
            "\nThe export continues. `ecolink models exports` shows it.",
            progress,
        )


@commands.command("exports")
def list_exports(client: Client, model: ModelName) -> None:
    """List the exports of a model."""
    path = f"/models/{quote(model)}/exports"
    show(client.read(Listed[ExportResponse], path), _exports)


@commands.command("delete-export")
def delete_export(client: Client, model: ModelName, format: ExportFormat) -> None:
    """Delete an export and its files, or stop it."""
    path = f"/models/{quote(model)}/exports/{format}"
    client.delete(path)
    deleted = {"model": model, "format": format.value, "deleted": True}
    show(Reply(deleted, deleted), pairs)


def _exports(answer: Listed[ExportResponse]) -> RenderableType:
    names = ("format", "status", "total_bytes", "ended_at", "expires_at")
    empty = "There are no exports. `ecolink models export MODEL` requests one."
    return listing((_with_reason(each, *names) for each in answer.data), empty)


def _with_reason(answer: ExportResponse | PushResponse, *names: str) -> dict[str, object]:
    failure = answer.failure
    return selected(answer, *names) | {"failure": failure and failure.message}


def _with_last_error(answer: PushResponse, *names: str) -> dict[str, object]:
    shown = _with_reason(answer, *names)
    if answer.last_error is not None:
        shown["failure"] = f"Trying again: {answer.last_error}"
    return shown


def _export(answer: ExportResponse) -> RenderableType:
    names = ("model", "format", "status", "requested_at", "ended_at", "expires_at", "total_bytes")
    return pairs(selected(answer, *names) | failure_of(answer))


@commands.command()
def push(
    client: Client,
    model: ModelName,
    repository: Annotated[str, typer.Argument(help="Repository, such as owner/name.")],
    format: Annotated[
        ExportFormat, typer.Option(help="Format of the export.")
    ] = ExportFormat.SAFETENSORS,
    private: Annotated[
        bool,
        typer.Option(
            "--private/--public",
            help="Visibility of a new repository. With --private, the push fails if the repository "
            "exists and is public.",
        ),
    ] = True,
    provenance: Annotated[
        bool,
        typer.Option(
            help="Also push provenance.json, with the hashes of the dataset, and the hardware, "
            "region and cost of the job."
        ),
    ] = True,
    follow: Annotated[bool, typer.Option(help="Wait until the push ends.")] = True,
) -> None:
    """Push a ready export to a repository of a Hugging Face hub.

    The token is in the variable HF_TOKEN. Without it, the command asks for the token. The
    repository gets all files of the export, also the model card and export.json, which contain the
    IDs of the account and the job, the results and the hyperparameters.
    """
    token = os.environ.get("HF_TOKEN") or typer.prompt("Token of the hub", hide_input=True)
    path = f"/models/{quote(model)}"
    target = {"repository": repository, "private": private, "provenance": provenance}
    body = {**target, "token": token}
    answer = client.send(PushResponse, f"{path}/exports/{format}/pushes", body, str(uuid4()))
    if follow:
        answer = followed(
            answer,
            lambda push: push.status is PushStatus.PENDING,
            partial(_pushed, client, path, answer.model.id),
            "\nThe push continues. `ecolink models pushes` shows it.",
        )
    show(answer, _push)
    if answer.model.status in (PushStatus.FAILED, PushStatus.STOPPED):
        raise typer.Exit(ExitCode.FAILED)


def _pushed(client: Client, path: str, push_id: UUID) -> Reply[PushResponse]:
    listed = client.read(Listed[PushResponse], f"{path}/pushes")
    found = next((each for each in listed.model.data if each.id == push_id), None)
    if found is None:
        raise ClientError(f"The push {push_id} was deleted. See `ecolink models pushes`.")
    return Reply(found.model_dump(mode="json"), found)


@commands.command("pushes")
def list_pushes(client: Client, model: ModelName) -> None:
    """List the pushes of a model to a hub."""
    show(client.read(Listed[PushResponse], f"/models/{quote(model)}/pushes"), _pushes)


@commands.command("stop-push")
def stop_push(
    client: Client,
    model: ModelName,
    push: Annotated[UUID, typer.Argument(help="ID of the push. See `ecolink models pushes`.")],
) -> None:
    """Stop a pending push to a hub. EcoLink deletes its token."""
    show(client.send(PushResponse, f"/models/{quote(model)}/pushes/{push}/stop", {}), _push)


def _pushes(answer: Listed[PushResponse]) -> RenderableType:
    names = ("id", "repository", "format", "status", "requested_at", "commit")
    empty = "There are no pushes. `ecolink models push MODEL REPOSITORY` requests one."
    return listing((_with_last_error(each, *names) for each in answer.data), empty)


def _push(answer: PushResponse) -> RenderableType:
    names = ("model", "format", "repository", "private", "provenance", "status", "commit", "url")
    return pairs(selected(answer, *names) | failure_of(answer))
