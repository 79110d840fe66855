"""`ecolink datasets`: upload, generate, list and delete datasets."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import indent
from typing import Annotated, TypeVar
from uuid import uuid4

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from domain.core.errors import WrongState
from domain.datasets.dataset import DatasetStatus
from domain.datasets.filters import DEFAULT_SIMILARITY, LEAST_SIMILARITY, PersonalData
from domain.datasets.findings import PERSONAL, TITLES
from domain.datasets.quality_report import QualityReport, Sample
from domain.datasets.validation_report import Excerpt, ValidationReport
from gateway.cli.client import SLOW_TIMEOUT, Client, Refused, Reply
from gateway.cli.exits import ExitCode
from gateway.cli.following import patiently
from gateway.cli.tables import listing_of, pairs
from gateway.cli.terminal import CommandGroup, agreed, bar, interrupted, note, show
from gateway.datasets.schemas import (
    ColumnsAnswer,
    ContaminationAnswer,
    DatasetAnswer,
    DifferenceAnswer,
)
from gateway.schemas import Listed
from infrastructure.datasets.comparisons import ComparisonState

POLL_SECONDS = 0.5
LINES_SHOWN, CHANGES_SHOWN, SAMPLES_SHOWN = 20, 20, 3
EXCEEDED = (
    "The comparison exceeded its limits, and is not repeated. Split the datasets to compare their "
    "parts."
)
PACKED_ENDINGS = (".gz", ".zip")

Compared = TypeVar("Compared", ContaminationAnswer, DifferenceAnswer)
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
    dataset = Reply.of(DatasetAnswer, document)
    _finish(client, dataset, follow)


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
    dataset = client.send(DatasetAnswer, "/datasets/from-hub", body, str(uuid4()), SLOW_TIMEOUT)
    _finish(client, dataset, follow)


def _finish(client: Client, dataset: Reply[DatasetAnswer], follow: bool) -> None:
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


def _fields(dataset: DatasetAnswer) -> RenderableType:
    values = dict(dataset)
    if dataset.filters is not None:
        values["filters"] = dataset.origin
    if dataset.findings is not None:
        counts = (f"{kind.replace('_', ' ')} {n:,}" for kind, n in dataset.findings.items())
        values["findings"] = ", ".join(counts) or "none"
    return pairs({name.replace("_", " "): value for name, value in values.items()})


def _validated(client: Client, dataset: Reply[DatasetAnswer]) -> Reply[DatasetAnswer]:
    """Wait until the dataset is validated and its tokens are counted for each base model."""

    def read() -> Reply[DatasetAnswer]:
        path = f"/datasets/{dataset.model.id}"
        return patiently(lambda: client.read(DatasetAnswer, path))

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
    show(client.read(Listed[DatasetAnswer], "/datasets"), _datasets)


def _datasets(answer: Listed[DatasetAnswer]) -> RenderableType:
    names = ("id", "name", "status", "kind", "examples", "errors", "uploaded_at", "duplicates")
    empty = "You have no datasets. `ecolink datasets upload FILE` uploads one."
    return listing_of(answer.data, *names, empty=empty)


@datasets.command("show")
def show_dataset(client: Client, dataset: DatasetId) -> None:
    """Show a dataset, and the progress of its validation."""
    show(client.read(DatasetAnswer, f"/datasets/{dataset}"), _fields)


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


def _format(found: ValidationReport | ColumnsAnswer) -> str:
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
        show(client.read(ColumnsAnswer, path), _columns)
        return
    body = {"columns": chosen} | ({"name": name} if name else {})
    _finish(client, client.send(DatasetAnswer, path, body), follow)


def _columns(found: ColumnsAnswer) -> RenderableType:
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


@datasets.command("quality")
def show_quality(
    client: Client,
    dataset: DatasetId,
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="DATASET", help="Validation dataset. Show the examples that both have."
        ),
    ] = None,
    follow: Annotated[bool, typer.Option(help="Wait until the analysis is complete.")] = True,
) -> None:
    """Show findings with line numbers, and statistics of the examples."""
    if validation is None:
        path = f"/datasets/{dataset}/quality"
        try:
            if follow:
                _wait_until_analyzed(client, dataset)
            show(client.read(QualityReport, path), _quality)
        except KeyboardInterrupt:
            interrupted(
                f"\nThe analysis continues. `ecolink datasets quality {dataset}` shows its result."
            )
        return
    path = f"/datasets/{dataset}/contamination"
    show(
        _compared(lambda: client.read(ContaminationAnswer, path, validation_dataset=validation)),
        _contamination,
    )


def _wait_until_analyzed(client: Client, dataset: str) -> None:
    """Wait until a dataset is validated and analyzed, or the gateway says that it will not be."""
    path, noted = f"/datasets/{dataset}", False
    while (now := patiently(lambda: client.read(DatasetAnswer, path)).model).analyzed is None:
        if now.status is DatasetStatus.READY_FOR_TRAINING:
            try:
                client.read(QualityReport, f"{path}/quality")
            except Refused as refusal:
                if refusal.problem.get("code") != WrongState.code:
                    raise
        elif now.status is not DatasetStatus.VALIDATING:
            return
        if not noted:
            note("EcoLink is still analyzing the dataset. Press Ctrl+C to stop waiting.")
            noted = True
        time.sleep(POLL_SECONDS)


def _quality(found: QualityReport) -> RenderableType:
    statistics = found.statistics
    lines = [Text(f"analyzed {found.analyzed:,} of {found.examples:,} examples")]
    if found.stopped:
        lines.append(Text(f"stopped at the {found.stopped} limit", style="yellow"))
    if found.crowded:
        lines.append(
            Text(
                f"{found.crowded:,} examples share much text with 500 others or more, so some "
                "near-duplicates of them may be missing",
                style="yellow",
            )
        )
    for each in found.findings:
        first = ", ".join(f"{line:,}" for line in each.lines[:LINES_SHOWN])
        more = ", …" if each.examples > LINES_SHOWN else ""
        title = TITLES[each.kind]
        lines.append(
            Text(f"{title}: {each.examples:,} ({found.unit}s {first}{more})", style="yellow")
        )
        lines += [Text(f"  {_sample(found.unit, one)}") for one in each.samples[:SAMPLES_SHOWN]]
    if not found.findings and found.analyzed:
        lines.append(Text("no findings"))
    characters, messages = statistics.characters, statistics.messages
    lines += [
        Text(
            f"characters: median {characters.median:,}, 95% {characters.p95:,}, "
            f"most {characters.most:,}"
        ),
        Text(f"messages: median {messages.median:,}, most {messages.most:,}"),
        Text(
            f"system prompts: {statistics.with_system_prompt:,} "
            f"({statistics.distinct_system_prompts:,} different)"
        ),
        Text(f"text of the assistant: {statistics.assistant_share:.0%}"),
        Text(
            "languages: "
            + ", ".join(f"{each.code} {each.examples:,}" for each in statistics.languages)
        ),
    ]
    return Group(*lines)


def _sample(unit: str, sample: Sample) -> str:
    said = f"{unit} {sample.line:,}"
    if sample.like_line is not None:
        said += f", like {unit} {sample.like_line:,}"
    if sample.similarity is not None:
        said += f" ({sample.similarity:.0%} similar)"
    text = f"{sample.before} → {sample.after}" if sample.after else sample.excerpt
    return ": ".join(filter(None, (said, sample.language, text)))


def _contamination(found: ContaminationAnswer) -> RenderableType:
    result = found.result
    if result is None:
        return Text(EXCEEDED, style="red")
    lines = [
        Text(
            f"{result.affected:,} of {result.validation_examples:,} validation examples are also "
            f"in the dataset: {result.exact:,} examples exactly, {result.near:,} nearly"
        )
    ]
    if result.is_partial:
        lines.append(
            Text(
                f"compared {result.examples:,} of {result.total or 0:,} examples with "
                f"{result.validation_examples:,} of {result.validation_total or 0:,}",
                style="yellow",
            )
        )
    if result.lines:
        first = ", ".join(f"{line:,}" for line in result.lines[:LINES_SHOWN])
        lines.append(Text(f"{result.unit}s: {first}{', …' if len(result.lines) > 20 else ''}"))
    return Group(*lines)


def _compared(read: Callable[[], Reply[Compared]]) -> Reply[Compared]:
    """Wait until a comparison is done."""
    while (found := patiently(read)).model.state is ComparisonState.WAITING:
        time.sleep(POLL_SECONDS)
    return found


@datasets.command("filter")
def filter_dataset(
    client: Client,
    dataset: DatasetId,
    near_duplicates: Annotated[
        bool, typer.Option("--near-duplicates", help="Remove near-duplicates. The first is kept.")
    ] = False,
    contaminates: Annotated[
        str | None,
        typer.Option(metavar="DATASET", help="Remove examples that are also in this dataset."),
    ] = None,
    similarity: Annotated[
        float,
        typer.Option(
            min=LEAST_SIMILARITY, max=1, help="Least similarity of near-duplicates, from 0.5 to 1."
        ),
    ] = DEFAULT_SIMILARITY,
    personal_data: Annotated[
        PersonalData, typer.Option(help="Mask personal data, or remove examples with some.")
    ] = PersonalData.KEEP,
    personal_kind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND",
            help=r"Kind of personal data, such as `email_address`. Repeat it.  \[default: all]",
        ),
    ] = None,
    answer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND",
            help="Remove examples with a `short_answer`, `refusal` or `truncated_answer`. Repeat "
            "it.",
        ),
    ] = None,
    min_characters: Annotated[
        int | None, typer.Option(help="Remove examples with fewer characters.")
    ] = None,
    max_characters: Annotated[
        int | None, typer.Option(help="Remove examples with more characters.")
    ] = None,
    language: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CODE", help="Keep only examples in this language, such as `en`. Repeat it."
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help=r"Name of the new version.  \[default: that of the dataset, and `(filtered)`]"
        ),
    ] = None,
    follow: Follow = True,
) -> None:
    """Make a new version with the filtered examples of a dataset.

    The existing dataset does not change.
    """
    chosen = {
        "near_duplicates": near_duplicates,
        "contaminates": contaminates,
        "similarity": similarity,
        "personal_data": personal_data,
        "personal_kinds": personal_kind,
        "answers": answer,
        "min_characters": min_characters,
        "max_characters": max_characters,
        "languages": language,
    }
    filters = {key: value for key, value in chosen.items() if value is not None}
    body = {"filters": filters} | ({"name": name} if name else {})
    if personal_data is PersonalData.MASK:
        _wait_until_analyzed(client, dataset)
        report = client.read(QualityReport, f"/datasets/{dataset}/quality").model
        for each in report.findings:
            if each.kind in (personal_kind or PERSONAL):
                note(f"{TITLES[each.kind]}: {each.occurrences:,} in {each.examples:,} examples")
                for one in each.samples[:SAMPLES_SHOWN]:
                    note(f"  {_sample(report.unit, one)}")
        if not agreed("Make a new version with these masks?"):
            return
    _finish(client, client.send(DatasetAnswer, f"/datasets/{dataset}/filters", body), follow)


@datasets.command()
def versions(client: Client, dataset: DatasetId) -> None:
    """List all versions of a dataset, oldest first."""
    show(client.read(Listed[DatasetAnswer], f"/datasets/{dataset}/versions"), _versions)


def _versions(answer: Listed[DatasetAnswer]) -> RenderableType:
    return listing_of(answer.data, "id", "name", "status", "examples", "origin", "parent", empty="")


@datasets.command("diff")
def show_difference(
    client: Client,
    dataset: DatasetId,
    base: Annotated[
        str | None,
        typer.Option(metavar="DATASET", help=r"Dataset to compare with.  \[default: its parent]"),
    ] = None,
) -> None:
    """Show the examples that a version adds, removes or changes."""
    path = f"/datasets/{dataset}/difference"
    show(_compared(lambda: client.read(DifferenceAnswer, path, base=base)), _difference)


def _difference(found: DifferenceAnswer) -> RenderableType:
    result = found.result
    if result is None:
        return Text(EXCEEDED, style="red")
    lines = [
        Text(
            f"{result.unchanged:,} unchanged, {result.added:,} added, {result.removed:,} removed, "
            f"{result.changed:,} changed"
        )
    ]
    marked = (
        ("~", result.changed_examples, "yellow"),
        ("+", result.added_examples, "green"),
        ("-", result.removed_examples, "red"),
    )
    for sign, changes, style in marked:
        for each in changes[:CHANGES_SHOWN]:
            places = (
                f"{result.old_unit} {each.old_line:,}" if each.old_line else "",
                f"{result.unit} {each.line:,}" if each.line else "",
            )
            lines.append(Text(f"{sign} {' → '.join(filter(None, places))}", style=style))
            if each.old_text:
                lines.append(Text(indent(each.old_text, "  - "), style="red"))
            if each.text:
                lines.append(Text(indent(each.text, "  + "), style="green"))
    return Group(*lines)


@datasets.command("ignore-tools")
def ignore_tools(client: Client, dataset: DatasetId) -> None:
    """Confirm that jobs ignore the tool definitions of a dataset."""
    show(client.send(DatasetAnswer, f"/datasets/{dataset}/ignore-tools", {}), _fields)


@datasets.command()
def delete(client: Client, dataset: DatasetId) -> None:
    """Delete a dataset and its file. Fails while an unfinished job or synthesis uses it."""
    client.delete(f"/datasets/{dataset}")
    deleted = {"id": dataset, "deleted": True}
    show(Reply(deleted, deleted), pairs)
