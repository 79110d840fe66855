"""`ecolink events`: the event stream as it passes, and what waits for an operator."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated
from uuid import UUID

import typer
from nats.errors import TimeoutError as NatsTimeout
from rich.console import Console
from rich.markup import escape

from deploy.local.stack import running
from domain.core.aggregate import Event
from gateway.schemas import parsed_job_id
from infrastructure import bus
from infrastructure.bus import EVENTS, Envelope
from infrastructure.reaction import parked_reactions, request_replay
from infrastructure.settings import Settings
from infrastructure.store import connect

commands = typer.Typer(name="events", help="The event stream and parked reactions.")

FINAL = frozenset({"Registered", "JobFailed", "JobCancelled"})
HIDDEN = frozenset(Event.model_fields) | {"originator_topic"}


def job_id_of(name: str) -> UUID:
    """The job that an argument names. Raises BadParameter."""
    try:
        return parsed_job_id(name)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@commands.command()
def tail(
    job: Annotated[
        UUID | None,
        typer.Option(parser=job_id_of, metavar="JOB", help="Only this job's events."),
    ] = None,
    follow: Annotated[bool, typer.Option(help="Follow new events.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One envelope a line.")] = False,
) -> None:
    """Show events from the bus, from the first one in the stream.

    With --job it ends when the job is over and its last meter is closed.
    """
    settings = _running()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_tail(settings, job, follow, as_json))


class Ending:
    """Knows when a job is over: in its final state, and no meter of it is open."""

    def __init__(self) -> None:
        self._open: set[int] = set()  # segments
        self._final = False

    def reached(self, envelope: Envelope) -> bool:
        """Whether this event is the job's last."""
        match envelope.topic:
            case "MeterOpened":
                self._open.add(envelope.state["segment"])
            case "MeterClosed":
                self._open.discard(envelope.state["segment"])
            case topic:
                self._final = self._final or topic in FINAL
        return self._final and not self._open


async def _tail(settings: Settings, job_id: UUID | None, follow: bool, as_json: bool) -> None:
    connection = await bus.connect(settings)
    try:
        subscription = await connection.jetstream().subscribe(
            "events.>", stream=EVENTS, ordered_consumer=True
        )
        ending = Ending()
        while True:
            try:
                message = await subscription.next_msg(timeout=1.0)
            except NatsTimeout:
                if follow:
                    continue
                return
            envelope = Envelope.model_validate_json(message.data)
            if job_id is not None and not _concerns(envelope, job_id):
                continue
            _print(envelope, as_json)
            if job_id is not None and ending.reached(envelope):
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
    """Empty the event stream of the bus. The relay fills it again from the event log."""
    asyncio.run(_empty(_running()))
    typer.echo("The event stream is empty; the relay fills it from the event log.")


async def _empty(settings: Settings) -> None:
    connection = await bus.connect(settings)
    try:
        await connection.jetstream().purge_stream(EVENTS)
    finally:
        await connection.close()


@commands.command()
def parked() -> None:
    """List reactions that failed repeatedly and wait for an operator."""
    with connect(_running()) as connection:
        rows = parked_reactions(connection)
    for row in rows:
        again = " (to be answered again)" if row["replay"] else ""
        typer.echo(
            f"{row['consumer']} {row['notification_id']} {row['topic']} of {row['originator_id']} "
            f"at {row['parked_at']:%Y-%m-%d %H:%M:%S}: {row['error']}{again}"
        )
    if not rows:
        typer.echo("Nothing is parked.")


@commands.command()
def replay(consumer: str, notification_id: int) -> None:
    """Retry a parked reaction, and those parked behind it."""
    with connect(_running()) as connection:
        found = request_replay(connection, consumer, notification_id)
    if not found:
        typer.echo(f"{consumer} has parked nothing at {notification_id}.", err=True)
        raise typer.Exit(1)
    typer.echo(
        f"What {consumer} has parked of {found['originator_id']} is answered again within seconds, "
        "in order."
    )


def _running() -> Settings:
    configured = Settings()
    if configured.database_url and configured.nats_url:
        return configured
    settings = running(configured.home)
    if settings is None:
        typer.echo("No stack runs here; `ecolink up` starts one.", err=True)
        raise typer.Exit(1)
    return settings
