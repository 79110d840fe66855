"""`ecolink datasets`: upload datasets and see what became of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli import tables
from gateway.cli.client import Client
from gateway.cli.exits import ExitCode
from gateway.cli.following import patiently
from gateway.cli.terminal import AsJson, bar, client_of, interrupted, show

POLL_SECONDS = 0.5
COUNTING_SECONDS = 60.0  # how long the counting in tokens is waited for

datasets = typer.Typer(no_args_is_help=True, help="Upload datasets and see what became of them.")

DatasetId = Annotated[str, typer.Argument(show_default=False)]


@datasets.command()
def upload(
    ctx: typer.Context,
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="Chat JSONL.")
    ],
    name: Annotated[str | None, typer.Option(help="Default: the file's name.")] = None,
    follow: Annotated[
        bool, typer.Option(help="Wait for the validation; exit code 1 if it is rejected.")
    ] = True,
    keep_duplicates: Annotated[
        bool, typer.Option("--keep-duplicates", help="Train on repeated lines as well.")
    ] = False,
    ignore_tools: Annotated[
        bool,
        typer.Option("--ignore-tools", help="Confirm that tools' definitions are ignored."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Upload a file, and follow its validation to the end."""
    with client_of(ctx) as client:
        with bar(f"uploading {file.name}", file.stat().st_size) as sent:
            dataset = client.upload(
                file,
                name or file.stem,
                sent,
                keep_duplicates=keep_duplicates,
                ignore_tools=ignore_tools,
            )
        if not follow:
            show(dataset, as_json, tables.fields)
            return
        try:
            dataset = _validated(client, dataset)
        except KeyboardInterrupt:
            interrupted(f"\nIts validation goes on: `ecolink datasets show {dataset['id']}`.")
        if dataset["status"] != "rejected":
            show(dataset, as_json, tables.fields)
            return
        report = client.get(f"/datasets/{dataset['id']}/report")
        show(dataset | {"report": report}, as_json, lambda _: tables.report(report))
        raise typer.Exit(ExitCode.FAILED)


def _validated(client: Client, dataset: dict[str, Any]) -> dict[str, Any]:
    """The dataset when its validation is over, and it is counted in each base's tokens."""
    path = f"/datasets/{dataset['id']}"
    with bar("validating", dataset["total_bytes"]) as advance:
        done = 0
        while (dataset := patiently(lambda: client.get(path)))["status"] == "validating":
            reached = (dataset["progress"] or {"bytes": 0})["bytes"]
            advance(reached - done)
            done = reached
            time.sleep(POLL_SECONDS)
        advance(dataset["total_bytes"] - done)
    deadline = time.monotonic() + COUNTING_SECONDS
    while dataset["counting"] and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        dataset = patiently(lambda: client.get(path))
    return dataset


@datasets.command("list")
def list_datasets(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Your datasets, the newest first."""
    with client_of(ctx) as client:
        show(client.get("/datasets"), as_json, tables.datasets)


@datasets.command("show")
def show_dataset(ctx: typer.Context, dataset: DatasetId, as_json: AsJson = False) -> None:
    """One dataset, and how far its validation has got."""
    with client_of(ctx) as client:
        show(client.get(f"/datasets/{dataset}"), as_json, tables.fields)


@datasets.command()
def report(ctx: typer.Context, dataset: DatasetId, as_json: AsJson = False) -> None:
    """What the validation found, line by line."""
    with client_of(ctx) as client:
        show(client.get(f"/datasets/{dataset}/report"), as_json, tables.report)


@datasets.command("ignore-tools")
def ignore_tools(ctx: typer.Context, dataset: DatasetId, as_json: AsJson = False) -> None:
    """Confirm that jobs train on a dataset without the tools that its lines define."""
    with client_of(ctx) as client:
        show(client.post(f"/datasets/{dataset}/ignore-tools", {}), as_json, tables.fields)


@datasets.command()
def delete(ctx: typer.Context, dataset: DatasetId, as_json: AsJson = False) -> None:
    """Delete a dataset with its file, unless a job that is not over trains on it."""
    with client_of(ctx) as client:
        client.delete(f"/datasets/{dataset}")
    show({"id": dataset, "deleted": True}, as_json, tables.fields)
