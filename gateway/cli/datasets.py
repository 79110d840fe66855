"""`ecolink datasets`: upload datasets and see what became of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway import tables
from gateway.cli.terminal import AsJson, client_of, show

datasets = typer.Typer(no_args_is_help=True, help="Upload datasets and see what became of them.")

DatasetId = Annotated[str, typer.Argument(show_default=False)]


@datasets.command()
def upload(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Chat JSONL.")],
    name: Annotated[str | None, typer.Option(help="Default: the file's name.")] = None,
    as_json: AsJson = False,
) -> None:
    """Upload a file; its validation begins."""
    with client_of(ctx) as client:
        show(client.upload(file, name or file.stem), as_json, tables.fields)


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
