"""`ecolink datasets generate` and `ecolink syntheses`: generate datasets and review them."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from domain.datasets.filters import DEFAULT_SIMILARITY, LEAST_SIMILARITY
from extensions.synthesis.domain.synthesis import SynthesisStatus
from extensions.synthesis.schemas import (
    EndpointResponse,
    ExampleResponse,
    SynthesisEstimateResponse,
    SynthesisResponse,
)
from gateway.cli.client import Client, Reply
from gateway.cli.exits import ExitCode
from gateway.cli.following import patiently
from gateway.cli.tables import fields, listing_of, pairs
from gateway.cli.terminal import CommandGroup, counter, interrupted, show
from gateway.datasets.schemas import DatasetResponse
from gateway.schemas import Listed, Page

POLL_SECONDS = 0.5
ENDINGS = {
    SynthesisStatus.PAUSED: ExitCode.PAUSED,
    SynthesisStatus.FAILED: ExitCode.FAILED,
    SynthesisStatus.CANCELLED: ExitCode.FAILED,
}

syntheses = CommandGroup(no_args_is_help=True, help="Watch, review and finish generated datasets.")
dataset_commands = CommandGroup()

SynthesisId = Annotated[str, typer.Argument(help="ID of the synthesis.", show_default=False)]
Number = Annotated[int, typer.Argument(min=1, help="Number of the example.", show_default=False)]
MaxCost = Annotated[str | None, typer.Option(help="Maximum cost in dollars, such as 2.50.")]


@dataset_commands.command("generate")
def generate(
    client: Client,
    name: Annotated[str, typer.Option(help="Name of the dataset.", show_default=False)],
    model: Annotated[
        str | None, typer.Option(help="Deployed model that writes the examples.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="ID of an external endpoint that writes them instead.")
    ] = None,
    endpoint_model: Annotated[
        str | None, typer.Option(help="Name of the model at the external endpoint.")
    ] = None,
    instructions: Annotated[str, typer.Option(help="What the chats are about.")] = "",
    topic: Annotated[
        list[str] | None, typer.Option(help="A topic. Repeat it for several topics.")
    ] = None,
    topics_file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Text file with a topic on each line."),
    ] = None,
    document: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, help="Text file from which the chats follow."),
    ] = None,
    seed_dataset: Annotated[
        str | None, typer.Option(help="ID of a dataset whose examples show the form and tone.")
    ] = None,
    system: Annotated[str, typer.Option(help="System message of every example.")] = "",
    examples: Annotated[int, typer.Option(min=2, help="Wanted examples.")] = 200,
    turns: Annotated[int, typer.Option(min=1, max=8, help="Most questions of one chat.")] = 1,
    personas: Annotated[
        bool, typer.Option(help="Vary the persona and the style of the user.")
    ] = True,
    judge: Annotated[bool, typer.Option(help="Let the model judge each example.")] = True,
    least_score: Annotated[
        int, typer.Option(min=0, max=10, help="Lowest accepted score of the judge.")
    ] = 6,
    answer_tokens: Annotated[
        int, typer.Option(min=32, max=4096, help="Most tokens of one generated chat.")
    ] = 512,
    attempts: Annotated[
        int, typer.Option(min=1, max=10, help="Most attempts for each wanted example.")
    ] = 3,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="Temperature of the model.")
    ] = 0.9,
    top_p: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Probability mass of the most likely tokens to sample from."
        ),
    ] = 0.95,
    similarity: Annotated[
        float,
        typer.Option(
            min=LEAST_SIMILARITY,
            max=DEFAULT_SIMILARITY,
            help="Similarity from which a chat is a duplicate of another one.",
        ),
    ] = DEFAULT_SIMILARITY,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the drawn material.")] = 0,
    max_cost: MaxCost = None,
    quote: Annotated[
        bool, typer.Option("--quote", help="Show the price, and generate nothing.")
    ] = False,
    follow: Annotated[bool, typer.Option(help="Wait until the examples can be reviewed.")] = True,
    finish_at_once: Annotated[
        bool, typer.Option("--finish", help="Create the dataset without a review.")
    ] = False,
) -> None:
    """Generate a dataset with a deployed model or an external endpoint."""
    body: dict[str, Any] = {
        "name": name,
        "instructions": instructions,
        "topics": [*(topic or []), *_lines(topics_file)],
        "documents": [
            {"name": each.name, "text": _text(each, "--document")} for each in document or []
        ],
        "seed_dataset": seed_dataset,
        "system": system,
        "model": model,
        "endpoint": endpoint,
        "endpoint_model": endpoint_model,
        "examples": examples,
        "turns": turns,
        "personas": personas,
        "judge": judge,
        "least_score": least_score,
        "answer_tokens": answer_tokens,
        "attempts": attempts,
        "temperature": temperature,
        "top_p": top_p,
        "similarity": similarity,
        "seed": seed,
        "max_cost": max_cost,
    }
    if quote:
        show(client.send(SynthesisEstimateResponse, "/syntheses/quote", body), fields)
        return
    made = client.send(SynthesisResponse, "/syntheses", body, str(uuid4()))
    if not (follow or finish_at_once):
        show(made, fields)
        return
    ended = _followed(client, made)
    if finish_at_once and ended.model.status is SynthesisStatus.REVIEWING:
        show(client.send(DatasetResponse, f"/syntheses/{ended.model.id}/finish", {}), fields)
        return
    _end(ended)


def _lines(file: Path | None) -> list[str]:
    text = "" if file is None else _text(file, "--topics-file")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _text(file: Path, option: str) -> str:
    """Return the text of a file. Raise BadParameter if it is not UTF-8."""
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise typer.BadParameter(
            f"{file.name} is not a text in UTF-8. Upload plain text or Markdown.", param_hint=option
        ) from error


def _followed(client: Client, synthesis: Reply[SynthesisResponse]) -> Reply[SynthesisResponse]:
    """Wait until the generation pauses or ends."""
    path = f"/syntheses/{synthesis.model.id}"
    done = synthesis.model.counts.accepted
    with ExitStack() as stack:
        advance = stack.enter_context(counter("generating", synthesis.model.examples))
        advance(done)
        try:
            while synthesis.model.status is SynthesisStatus.GENERATING:
                time.sleep(POLL_SECONDS)
                synthesis = patiently(lambda: client.read(SynthesisResponse, path))
                advance(synthesis.model.counts.accepted - done)
                done = synthesis.model.counts.accepted
        except KeyboardInterrupt:
            interrupted(
                f"\nThe generation continues.\n"
                f"  ecolink syntheses watch {synthesis.model.id}   follows it again\n"
                f"  ecolink syntheses cancel {synthesis.model.id}  stops it"
            )
    return synthesis


def _end(synthesis: Reply[SynthesisResponse]) -> None:
    show(synthesis, fields)
    if (code := ENDINGS.get(synthesis.model.status)) is not None:
        raise typer.Exit(code)


@syntheses.command("list")
def list_syntheses(client: Client) -> None:
    """List your syntheses, newest first."""
    show(client.read(Listed[SynthesisResponse], "/syntheses"), _syntheses)


def _syntheses(answer: Listed[SynthesisResponse]) -> RenderableType:
    names = ("id", "name", "status", "examples", "cost", "approved_at")
    empty = "You have no syntheses. `ecolink datasets generate` starts one."
    return listing_of(answer.data, *names, empty=empty)


@syntheses.command("show")
def show_synthesis(client: Client, synthesis: SynthesisId) -> None:
    """Show a synthesis with its progress and its cost so far."""
    show(client.read(SynthesisResponse, f"/syntheses/{synthesis}"), fields)


@syntheses.command()
def watch(client: Client, synthesis: SynthesisId) -> None:
    """Wait until the generation pauses or ends."""
    _end(_followed(client, client.read(SynthesisResponse, f"/syntheses/{synthesis}")))


@syntheses.command()
def pause(client: Client, synthesis: SynthesisId) -> None:
    """Pause the generation."""
    show(client.send(SynthesisResponse, f"/syntheses/{synthesis}/pause", {}), fields)


@syntheses.command()
def resume(client: Client, synthesis: SynthesisId, max_cost: MaxCost = None) -> None:
    """Continue a paused generation."""
    body = {"max_cost": max_cost} if max_cost else {}
    show(client.send(SynthesisResponse, f"/syntheses/{synthesis}/resume", body), fields)


@syntheses.command()
def stop(client: Client, synthesis: SynthesisId) -> None:
    """End the generation early, to review the accepted examples."""
    show(client.send(SynthesisResponse, f"/syntheses/{synthesis}/stop", {}), fields)


@syntheses.command()
def cancel(client: Client, synthesis: SynthesisId) -> None:
    """End a synthesis without a dataset."""
    show(client.send(SynthesisResponse, f"/syntheses/{synthesis}/cancel", {}), fields)


@syntheses.command()
def examples(
    client: Client,
    synthesis: SynthesisId,
    after: Annotated[int, typer.Option(min=0, help="Show only examples after this one.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Number of examples.")] = 20,
) -> None:
    """Show generated examples, as you edited them."""
    path = f"/syntheses/{synthesis}/examples"
    show(client.read(Page[ExampleResponse], path, after=after, limit=limit), _examples)


def _examples(page: Page[ExampleResponse]) -> RenderableType:
    lines: list[Text] = []
    for example in page.data:
        lines.append(_title(example))
        lines += [Text(f"  {each.role}: {each.content}") for each in example.messages]
    if page.has_more:
        lines.append(Text(f"More examples: --after {page.data[-1].number}", style="dim"))
    return Group(*lines)


def _title(example: ExampleResponse) -> Text:
    marks = [name for name in ("edited", "removed") if getattr(example, name)]
    score = example.origin.get("score")
    if score is not None:
        marks.append(f"score {score}")
    return Text(f"{example.number}" + (f" ({', '.join(marks)})" if marks else ""), style="bold")


@syntheses.command()
def edit(
    client: Client,
    synthesis: SynthesisId,
    number: Number,
    file: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, help='JSON file with {"messages": [...]}.'),
    ],
) -> None:
    """Replace the messages of an example."""
    try:
        body = json.loads(file.read_text())
    except ValueError as error:
        raise typer.BadParameter(f"{file} is not JSON: {error}.") from error
    path = f"/syntheses/{synthesis}/examples/{number}"
    show(client.change(ExampleResponse, path, body), lambda each: _examples(_page(each)))


def _page(example: ExampleResponse) -> Page[ExampleResponse]:
    return Page(data=[example], has_more=False)


@syntheses.command()
def remove(client: Client, synthesis: SynthesisId, number: Number) -> None:
    """Leave an example out of the dataset."""
    client.delete(f"/syntheses/{synthesis}/examples/{number}")
    removed = {"synthesis": synthesis, "number": number, "removed": True}
    show(Reply(removed, removed), pairs)


@syntheses.command()
def restore(client: Client, synthesis: SynthesisId, number: Number) -> None:
    """Restore a removed example."""
    path = f"/syntheses/{synthesis}/examples/{number}/restore"
    show(client.send(ExampleResponse, path, {}), lambda each: _examples(_page(each)))


@syntheses.command()
def finish(
    client: Client,
    synthesis: SynthesisId,
    name: Annotated[
        str | None, typer.Option(help="Name of the dataset.  \\[default: that of the synthesis]")
    ] = None,
) -> None:
    """Create the dataset of the reviewed examples."""
    body = {"name": name} if name else {}
    show(client.send(DatasetResponse, f"/syntheses/{synthesis}/finish", body), fields)


@syntheses.command()
def endpoints(client: Client) -> None:
    """List your external endpoints."""
    show(client.read(Listed[EndpointResponse], "/synthesis-endpoints"), _endpoints)


def _endpoints(answer: Listed[EndpointResponse]) -> RenderableType:
    empty = "You have no external endpoints. `ecolink syntheses add-endpoint` adds one."
    return listing_of(answer.data, "id", "name", "url", "has_key", "key_lost", empty=empty)


@syntheses.command("add-endpoint")
def add_endpoint(
    client: Client,
    name: Annotated[str, typer.Argument(help="Name of the endpoint.", show_default=False)],
    url: Annotated[
        str, typer.Argument(help="Base URL, such as https://example.com/v1.", show_default=False)
    ],
    key_file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="File with the key of the provider."),
    ] = None,
) -> None:
    """Store an external endpoint. Without --key-file, EcoLink sends no key."""
    key = "" if key_file is None else key_file.read_text().strip()
    body = {"name": name, "url": url, "key": key}
    show(client.send(EndpointResponse, "/synthesis-endpoints", body), fields)


@syntheses.command("replace-endpoint-key")
def replace_endpoint_key(
    client: Client,
    endpoint: Annotated[str, typer.Argument(help="ID of the endpoint.", show_default=False)],
    key_file: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="File with the key of the provider.")
    ],
) -> None:
    """Replace the key of an external endpoint."""
    body = {"key": key_file.read_text().strip()}
    show(client.replace(EndpointResponse, f"/synthesis-endpoints/{endpoint}/key", body), fields)


@syntheses.command("delete-endpoint")
def delete_endpoint(
    client: Client,
    endpoint: Annotated[str, typer.Argument(help="ID of the endpoint.", show_default=False)],
) -> None:
    """Delete an external endpoint with its key."""
    client.delete(f"/synthesis-endpoints/{endpoint}")
    deleted = {"id": endpoint, "deleted": True}
    show(Reply(deleted, deleted), pairs)
