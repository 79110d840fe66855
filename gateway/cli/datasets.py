"""`ecolink datasets`: upload, generate, list and delete datasets."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from domain.datasets.dataset import DatasetStatus
from domain.datasets.validation_report import Excerpt, ValidationReport
from gateway.cli.client import SLOW_TIMEOUT, Client, Reply
from gateway.cli.exits import ExitCode
from gateway.cli.following import patiently
from gateway.cli.tables import listing_of, pairs
from gateway.cli.terminal import CommandGroup, bar, interrupted, note, show
from gateway.datasets.schemas import ColumnsResponse, DatasetResponse
from gateway.schemas import Listed

POLL_SECONDS = 0.5
PACKED_ENDINGS = (".gz", ".zip")

COUNTING_SECONDS = 60.0  # maximum wait for the token counts

datasets = CommandGroup(no_args_is_help=True, help="Upload, generate, list and delete datasets.")

DatasetId = Annotated[str, typer.Argument(help="ID of the dataset.", show_default=False)]
Follow = Annotated[
    bool,
    typer.Option(
        help="Wait for the validation. The exit code is 1 if EcoLink rejects the dataset."
    ),
]
KeepDuplicates = Annotated[
    bool,
    typer.Option("--keep-duplicates", help="Keep repeated lines, so that jobs also train on them."),
]
IgnoreTools = Annotated[
    bool, typer.Option("--ignore-tools", help="Remove tool definitions from the examples.")
]
ColumnsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ROLE=COLUMN",
        help="Column of a role, such as `user=question`. Repeat it for each role. The roles are "
        "messages, or user and assistant, or user, chosen and rejected, and system, input, "
        "history, tools and weight.  "
        "\\[default: guessed]",
    ),
]


def _chosen(given: list[str] | None) -> dict[str, str]:
    """Return the columns of `ROLE=COLUMN` options."""
    columns: dict[str, str] = {}
    for each in given or []:
        role, equals, name = each.partition("=")
        if not equals or not name or role in columns:
            raise typer.BadParameter(
                f"{each!r} is not ROLE=COLUMN, or repeats a role. Write, for example, "
                "--column user=question --column assistant=answer."
            )
        columns[role] = name
    return columns


def name_of(file: Path) -> str:
    """Return the name of a file without its endings, such as `.jsonl.gz`."""
    inner = Path(file.stem) if file.suffix in PACKED_ENDINGS else file
    return inner.stem


@datasets.command()
def upload(
    client: Client,
    file: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            readable=True,
            help="Chats or preference pairs in JSONL, a JSON array, CSV, Parquet or a transcript, "
            "also in gzip or zip.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the dataset.  \\[default: the name of the file]")
    ] = None,
    follow: Follow = True,
    keep_duplicates: KeepDuplicates = False,
    ignore_tools: IgnoreTools = False,
    column: ColumnsOption = None,
    parent: Annotated[
        str | None,
        typer.Option(metavar="DATASET", help="Dataset of which the file is a new version."),
    ] = None,
) -> None:
    """Upload a file, and wait for its validation."""
    columns = _chosen(column)
    with bar(f"uploading {file.name}", file.stat().st_size) as sent:
        document = client.upload(
            file,
            name or name_of(file),
            sent,
            keep_duplicates=keep_duplicates,
            ignore_tools=ignore_tools,
            **({"columns": json.dumps(columns)} if columns else {}),
            **({"parent": parent} if parent else {}),
        )
    dataset = Reply.of(DatasetResponse, document)
    finish(client, dataset, follow)


@datasets.command("from-hub")
def from_hub(
    client: Client,
    repository: Annotated[
        str, typer.Argument(help="Repository, such as owner/name or hf:owner/name.")
    ],
    config: Annotated[str | None, typer.Option(help="Config of the dataset.")] = None,
    split: Annotated[str, typer.Option(help="Split of the dataset.")] = "train",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the dataset.")] = None,
    follow: Follow = True,
    keep_duplicates: KeepDuplicates = False,
    ignore_tools: IgnoreTools = False,
    column: ColumnsOption = None,
) -> None:
    """Create a dataset from a repository of a Hugging Face hub.

    For a private repository, set the variable HF_TOKEN.
    """
    body = {
        "repository": repository.removeprefix("hf:"),
        "config": config,
        "split": split,
        "revision": revision,
        "token": os.environ.get("HF_TOKEN") or None,
        "name": name,
        "keep_duplicates": keep_duplicates,
        "ignore_tools": ignore_tools,
        "columns": _chosen(column) or None,
    }
    note("Downloading. This may take some minutes.")
    dataset = client.send(DatasetResponse, "/datasets/from-hub", body, str(uuid4()), SLOW_TIMEOUT)
    finish(client, dataset, follow)


@datasets.command("from-sample")
def from_sample(client: Client, follow: Follow = True) -> None:
    """Create a dataset from EcoLink's sample, 150 chats for a first job."""
    dataset = client.send(DatasetResponse, "/datasets/from-sample", {}, str(uuid4()))
    finish(client, dataset, follow)


def finish(client: Client, dataset: Reply[DatasetResponse], follow: bool) -> None:
    """Wait for the validation of a new dataset, and print it. Exit with 1 if it is rejected."""
    if not follow:
        show(dataset, _fields)
        return
    try:
        dataset = _validated(client, dataset)
    except KeyboardInterrupt:
        interrupted(
            f"\nThe validation continues. `ecolink datasets show {dataset.model.id}` shows its "
            "progress."
        )
    if dataset.model.status is not DatasetStatus.REJECTED:
        show(dataset, _fields)
        return
    report = client.read(ValidationReport, f"/datasets/{dataset.model.id}/report")
    whole = dataset.document | {"report": report.document}
    show(Reply(whole, report.model), _report)
    raise typer.Exit(ExitCode.FAILED)


def _fields(dataset: DatasetResponse) -> RenderableType:
    values = dict(dataset)
    if dataset.filters is not None:
        values["filters"] = dataset.origin
    if dataset.findings is not None:
        counts = (f"{kind.replace('_', ' ')} {n:,}" for kind, n in dataset.findings.items())
        values["findings"] = ", ".join(counts) or "none"
    return pairs({name.replace("_", " "): value for name, value in values.items()})


def _validated(client: Client, dataset: Reply[DatasetResponse]) -> Reply[DatasetResponse]:
    """Wait until the dataset is validated and its tokens are counted for each base model."""

    def read() -> Reply[DatasetResponse]:
        path = f"/datasets/{dataset.model.id}"
        return patiently(lambda: client.read(DatasetResponse, path))

    total_bytes = dataset.model.total_bytes
    with bar("validating", total_bytes) as advance:
        done = 0
        while (now := read()).model.status is DatasetStatus.VALIDATING:
            reached = now.model.progress.bytes if now.model.progress else 0
            advance(reached - done)
            done = reached
            time.sleep(POLL_SECONDS)
        advance(total_bytes - done)
    deadline = time.monotonic() + COUNTING_SECONDS
    while now.model.counting and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        now = read()
    return now


@datasets.command("list")
def list_datasets(client: Client) -> None:
    """List your datasets, newest first."""
    show(client.read(Listed[DatasetResponse], "/datasets"), _datasets)


def _datasets(answer: Listed[DatasetResponse]) -> RenderableType:
    names = ("id", "name", "status", "kind", "examples", "errors", "uploaded_at", "duplicates")
    empty = "You have no datasets. `ecolink datasets upload FILE` uploads one."
    return listing_of(answer.data, *names, empty=empty)


@datasets.command("show")
def show_dataset(client: Client, dataset: DatasetId) -> None:
    """Show a dataset, and the progress of its validation."""
    show(client.read(DatasetResponse, f"/datasets/{dataset}"), _fields)


@datasets.command()
def report(client: Client, dataset: DatasetId) -> None:
    """Show the warnings and errors of the validation."""
    show(client.read(ValidationReport, f"/datasets/{dataset}/report"), _report)


def _report(found: ValidationReport) -> RenderableType:
    counts = f"examples {found.examples:,}, duplicates {found.duplicates:,}"
    lines = [Text(f"{found.status}: {counts}, errors {found.error_count:,}")]
    lines.append(Text(_format(found)))
    lines += [Text(f"warning: {notice.message}", style="yellow") for notice in found.warnings]
    for problem in found.errors:
        where = "file" if problem.line is None else f"{found.unit} {problem.line:,}"
        lines.append(Text(f"{where}: {problem.message}", style="red"))
        if problem.excerpt and problem.excerpt.text:
            lines.append(_excerpt(problem.excerpt))
    if (more := found.error_count - len(found.errors)) > 0:
        lines.append(
            Text(
                f"and {more:,} more {found.unit}{'' if more == 1 else 's'} with errors", style="red"
            )
        )
    return Group(*lines)


def _format(found: ValidationReport | ColumnsResponse) -> str:
    chosen = found.columns_chosen if isinstance(found, ValidationReport) else found.chosen
    columns = ", ".join(f"{role}={name}" for role, name in found.columns.items())
    kind = f"{found.format}, {found.shape}" if found.shape else found.format
    how = "chosen" if chosen else "guessed"
    return f"format: {kind}; columns: {columns} ({how})" if columns else f"format: {kind}"


@datasets.command()
def columns(
    client: Client,
    dataset: DatasetId,
    column: ColumnsOption = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the new dataset.  \\[default: that of the existing one]"),
    ] = None,
    follow: Follow = True,
) -> None:
    """Show the columns and first rows, or create a new dataset with other columns.

    With `--column`, EcoLink reads the same upload again. The existing dataset does not change.
    """
    path = f"/datasets/{dataset}/columns"
    chosen = _chosen(column)
    if not chosen:
        show(client.read(ColumnsResponse, path), _columns)
        return
    body = {"columns": chosen} | ({"name": name} if name else {})
    finish(client, client.send(DatasetResponse, path, body), follow)


def _columns(found: ColumnsResponse) -> RenderableType:
    lines = [Text(_format(found))]
    if found.names:
        lines.append(Text(f"columns of the file: {', '.join(found.names)}"))
    if found.unused:
        lines.append(Text(f"unused columns: {', '.join(found.unused)}", style="yellow"))
    if found.problem:
        lines.append(Text(found.problem, style="red"))
    for row in found.rows:
        lines.append(Text(f"{found.unit} {row.row:,}", style="bold"))
        if row.problem:
            lines.append(Text(f"  {row.problem}", style="red"))
        if found.problem or row.problem:
            lines += [Text(f"  {name}: {value}") for name, value in row.values.items()]
        lines += [Text(f"  {each.role}: {each.content}") for each in row.messages]
        lines += [Text(f"  preferred: {each.content}", style="green") for each in row.chosen]
        lines += [Text(f"  rejected: {each.content}", style="red") for each in row.rejected]
    return Group(*lines)


def _excerpt(part: Excerpt) -> Text:
    return Text.assemble(
        "  …" if part.column > 1 else "  ",
        part.text[: part.start],
        (part.text[part.start : part.end], "reverse"),
        part.text[part.end :] + ("…" if part.goes_on else ""),
    )


@datasets.command()
def versions(client: Client, dataset: DatasetId) -> None:
    """List all versions of a dataset, oldest first."""
    show(client.read(Listed[DatasetResponse], f"/datasets/{dataset}/versions"), _versions)


def _versions(answer: Listed[DatasetResponse]) -> RenderableType:
    return listing_of(answer.data, "id", "name", "status", "examples", "origin", "parent", empty="")


@datasets.command("ignore-tools")
def ignore_tools(client: Client, dataset: DatasetId) -> None:
    """Confirm that jobs ignore the tool definitions of a dataset."""
    show(client.send(DatasetResponse, f"/datasets/{dataset}/ignore-tools", {}), _fields)


@datasets.command()
def delete(client: Client, dataset: DatasetId) -> None:
    """Delete a dataset and its file. Fails while an unfinished job or synthesis uses it."""
    client.delete(f"/datasets/{dataset}")
    deleted = {"id": dataset, "deleted": True}
    show(Reply(deleted, deleted), pairs)
