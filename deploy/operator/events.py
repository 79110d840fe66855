"""`ecolink events`, which shows and empties the event stream."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

import typer
from nats.errors import TimeoutError as NatsTimeout
from nats.js.api import ConsumerConfig
from rich.console import Console
from rich.markup import escape

from deploy.local.stack import running
from domain.core.aggregate import Event
from gateway.schemas import parsed_job_id
from infrastructure.accounts.profiles import account_id_of
from infrastructure.bus import streams as bus
from infrastructure.bus.streams import AGGREGATE_OF, EVENTS, Envelope
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings

commands = typer.Typer(name="events", help="Follow the event stream, and replay parked events.")

AGGREGATE_NAMES = frozenset(AGGREGATE_OF.values())
TOPIC_NAMES = frozenset(AGGREGATE_OF)

FINAL = frozenset({"Registered", "JobFailed", "JobCancelled"})
HIDDEN = frozenset(Event.model_fields) | {"originator_topic"}


def job_id_of(name: str) -> UUID:
    """Parse a job ID from the command line. Raise BadParameter if it is malformed."""
    try:
        return parsed_job_id(name)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@commands.command()
def subscribe(
    job: Annotated[
        UUID | None,
        typer.Option(parser=job_id_of, metavar="JOB", help="Show only events of this job."),
    ] = None,
    account: Annotated[
        str | None, typer.Option(help="Show only events of this account, by name or ID.")
    ] = None,
    aggregate: Annotated[
        str | None, typer.Option(help="Show only events of this kind of aggregate, such as Meter.")
    ] = None,
    topic: Annotated[
        list[str] | None,
        typer.Option(help="Show only this topic, such as MinuteMetered. Repeatable."),
    ] = None,
    after: Annotated[int, typer.Option(min=0, help="Notification ID. Show only later events.")] = 0,
    follow: Annotated[bool, typer.Option(help="Wait for new events.")] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line.")
    ] = False,
) -> None:
    """Show the events in the stream, from the first one.

    With --job, the command exits when the job has ended and its last meter is closed. The page
    "The bus" of the documentation explains how to subscribe from a program.
    """
    settings = _running()
    wanted = Wanted(
        job,
        _account_of(settings, account),
        _known(aggregate, AGGREGATE_NAMES, "aggregate"),
        frozenset(_known(each, TOPIC_NAMES, "topic") or "" for each in topic or ()),
        after,
    )
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_subscribe(settings, wanted, follow, as_json))


@commands.command()
def asyncapi() -> None:
    """Print the AsyncAPI document of the bus, with the schema of every message, as YAML."""
    from infrastructure.training.bus_document import as_yaml  # only here: FastStream imports slowly

    typer.echo(as_yaml(), nl=False)


@dataclass(frozen=True)
class Wanted:
    """The events to show. A field without a value selects all."""

    job_id: UUID | None = None
    account_id: UUID | None = None
    aggregate: str | None = None
    topics: frozenset[str] = frozenset()
    after: int = 0

    @property
    def subjects(self) -> list[str]:
        """Subjects with wildcards. NATS sends only messages that match one of them.

        All events of a job are needed to recognize its last one.
        """
        if self.job_id is not None:
            return ["events.>"]
        account, aggregate = self.account_id or "*", self.aggregate or "*"
        return [f"events.{account}.{aggregate}.*.{each}" for each in sorted(self.topics) or ["*"]]

    def includes(self, envelope: Envelope) -> bool:
        """Return True if an event is wanted."""
        account_id, aggregate = envelope.state["account_id"], AGGREGATE_OF[envelope.topic]
        return (
            envelope.id > self.after
            and (self.account_id is None or account_id == str(self.account_id))
            and (self.aggregate is None or aggregate == self.aggregate)
            and (not self.topics or envelope.topic in self.topics)
            and (self.job_id is None or _concerns(envelope, self.job_id))
        )


def _known(name: str | None, names: Collection[str], kind: str) -> str | None:
    """Return a name. Raise BadParameter if it is unknown."""
    if name is not None and name not in names:
        raise typer.BadParameter(
            f"Unknown {kind} {name!r}. Choose from {', '.join(sorted(names))}."
        )
    return name


def _account_of(settings: Settings, text: str | None) -> UUID | None:
    if text is None:
        return None
    with connect(settings) as store:
        account_id = account_id_of(store, text)
    if account_id is None:
        raise typer.BadParameter(f"Unknown account {text!r}. See `ecolink accounts list`.")
    return account_id


class Ending:
    """Detects the last event of a job, after which it has ended and all its meters are closed."""

    def __init__(self) -> None:
        self._open: set[int] = set()  # segments with an open meter
        self._final = False

    def reached(self, envelope: Envelope) -> bool:
        """Return True if this event is the job's last one."""
        match envelope.topic:
            case "MeterOpened":
                self._open.add(envelope.state["segment"])
            case "MeterClosed":
                self._open.discard(envelope.state["segment"])
            case topic:
                self._final = self._final or topic in FINAL
        return self._final and not self._open


async def _subscribe(settings: Settings, wanted: Wanted, follow: bool, as_json: bool) -> None:
    async for envelope in events_on_bus(settings, wanted, follow=follow):
        _print(envelope, as_json)


async def events_on_bus(
    settings: Settings, wanted: Wanted, *, follow: bool
) -> AsyncGenerator[Envelope]:
    """Yield the events in the stream, and then new ones if `follow` is true.

    The events of a job end with its last one, even if that one is not wanted.
    """
    ending = Ending()
    connection = await bus.connect(settings)
    try:
        config = ConsumerConfig(filter_subjects=wanted.subjects)
        subscription = await connection.jetstream().subscribe(
            "", stream=EVENTS, ordered_consumer=True, config=config
        )
        while True:
            try:
                message = await subscription.next_msg(timeout=1.0)
            except NatsTimeout:
                if follow:
                    continue
                return
            envelope = Envelope.model_validate_json(message.data)
            if wanted.includes(envelope):
                yield envelope
            job_id = wanted.job_id
            if job_id and _concerns(envelope, job_id) and ending.reached(envelope):
                return
    finally:
        await connection.close()


def _concerns(envelope: Envelope, job_id: UUID) -> bool:
    return envelope.originator_id == job_id or envelope.state.get("job_id") == str(job_id)


def _print(envelope: Envelope, as_json: bool) -> None:
    if as_json:
        typer.echo(envelope.model_dump_json())
        return
    fields = " ".join(
        f"{name}={value}" for name, value in envelope.state.items() if name not in HIDDEN
    )
    at = str(envelope.state["timestamp"])[11:23]
    Console(soft_wrap=True).print(
        f"[dim]{envelope.id:>6} {at}[/] [bold]{envelope.topic}[/] {escape(fields)}"
    )


@commands.command("empty-stream")
def empty_stream() -> None:
    """Empty the event stream. The relay refills it from the event log."""
    asyncio.run(_empty(_running()))
    typer.echo("The event stream is empty. The relay refills it from the event log.")


async def _empty(settings: Settings) -> None:
    connection = await bus.connect(settings)
    try:
        await connection.jetstream().purge_stream(EVENTS)
    finally:
        await connection.close()


def _running() -> Settings:
    configured = Settings()
    if configured.database_url and configured.nats_url:
        return configured
    settings = running(configured.home)
    if settings is None:
        typer.echo("EcoLink is not running here. Start it with `ecolink up`.", err=True)
        raise typer.Exit(1)
    return settings
