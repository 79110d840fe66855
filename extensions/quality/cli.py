"""`ecolink datasets quality`, `filter` and `diff`."""

from __future__ import annotations

import time
from collections.abc import Callable
from textwrap import indent
from typing import Annotated, TypeVar

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from domain.core.errors import WrongState
from domain.datasets.dataset import DatasetStatus
from domain.datasets.filters import DEFAULT_SIMILARITY, LEAST_SIMILARITY, PersonalData
from domain.datasets.findings import PERSONAL
from extensions.quality.comparisons import ComparisonState
from extensions.quality.domain.quality_report import TITLES, QualityReport, Sample
from extensions.quality.schemas import ContaminationResponse, DifferenceResponse
from gateway.cli.client import Client, Refused, Reply
from gateway.cli.datasets import POLL_SECONDS, DatasetId, Follow, finish
from gateway.cli.following import patiently
from gateway.cli.terminal import CommandGroup, agreed, interrupted, note, show
from gateway.datasets.schemas import DatasetResponse

LINES_SHOWN, CHANGES_SHOWN, SAMPLES_SHOWN = 20, 20, 3
EXCEEDED = (
    "The comparison exceeded its limits, and is not repeated. Split the datasets to compare their "
    "parts."
)

Compared = TypeVar("Compared", ContaminationResponse, DifferenceResponse)

dataset_commands = CommandGroup()


@dataset_commands.command("quality")
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
        _compared(lambda: client.read(ContaminationResponse, path, validation_dataset=validation)),
        _contamination,
    )


def _wait_until_analyzed(client: Client, dataset: str) -> None:
    """Wait until a dataset is validated and analyzed, or the gateway says that it will not be."""
    path, noted = f"/datasets/{dataset}", False
    while (now := patiently(lambda: client.read(DatasetResponse, path)).model).analyzed is None:
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


def _contamination(found: ContaminationResponse) -> RenderableType:
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


@dataset_commands.command("filter")
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
    finish(client, client.send(DatasetResponse, f"/datasets/{dataset}/filters", body), follow)


@dataset_commands.command("diff")
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
    show(_compared(lambda: client.read(DifferenceResponse, path, base=base)), _difference)


def _difference(found: DifferenceResponse) -> RenderableType:
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
