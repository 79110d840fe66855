"""The commands of the embedded stack: `ecolink up`, `down` and `status`."""

from __future__ import annotations

import signal
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from deploy.demo.account import demo_account, sign_in_link
from deploy.local import stack
from deploy.local.errors import StackError
from deploy.local.health import complaints
from deploy.local.state import ChildState, StackPhase, StackState
from infrastructure.clock import clock_of
from infrastructure.reaction import UNREACHABLE
from infrastructure.settings import Settings

commands = typer.Typer()
console = Console(highlight=False)

COLOURS = {
    ChildState.RUNNING: "green",
    ChildState.STARTING: "yellow",
    ChildState.BACKOFF: "red",
    ChildState.STOPPING: "yellow",
    ChildState.STOPPED: "dim",
}


@commands.command()
def up(
    show_key: Annotated[bool, typer.Option(help="Print the demo account's API key.")] = False,
) -> None:
    """Start EcoLink on this machine and stay until Ctrl-C."""
    settings = Settings()
    signal.signal(signal.SIGTERM, _interrupt)
    console.print(f"Starting EcoLink in {settings.home.resolve()} ...")
    try:
        with stack.up(settings) as started:
            # From here on nothing is interrupted: an exception could get lost in a library.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: started.stop())
            with suppress(*UNREACHABLE):  # then the supervisor has ended, which is told below
                announce(started.settings, show_key=show_key)
            if started.wait() != 0:
                fail(f"The supervisor failed; its log is in {started.settings.home / 'logs'}.")
    except KeyboardInterrupt:
        pass
    except StackError as error:
        fail(str(error))
    console.print("EcoLink has stopped; its data stays.")


@commands.command()
def down() -> None:
    """Stop EcoLink on this machine."""
    settings = Settings()
    try:
        stopped = stack.down(settings.home)
    except StackError as error:
        fail(str(error))
    console.print("EcoLink has stopped." if stopped else "EcoLink is not running.")


@commands.command()
def status() -> None:
    """Show each process of the running EcoLink, and consumers that lag behind the log.

    Exit status 1 if it is not running, a consumer is five minutes behind, or an event is parked.
    """
    settings = Settings()
    found = stack.state(settings.home)
    if found is None:
        console.print(f"EcoLink is not running on {settings.home.resolve()}.")
        raise typer.Exit(1)
    console.print(status_table(found, datetime.now(UTC)))
    if found.settings.gateway_url:
        console.print(f"{found.settings.gateway_url}  {found.settings.home}", style="dim")
    if found.phase is not StackPhase.READY:
        raise typer.Exit(1)
    processes = [child.name for child in found.children]
    said = complaints(found.settings, processes, clock_of(found.settings).now())
    for complaint in said:
        console.print(complaint, style="red", markup=False)
    if said:
        raise typer.Exit(1)


@commands.command("sign-in")
def sign_in() -> None:
    """Print a link that signs a browser in as the demo account, once within 30 minutes."""
    found = stack.state(Settings().home)
    if found is None or found.phase is not StackPhase.READY:
        fail("EcoLink is not running here; `ecolink up` starts it.")
    print(sign_in_link(found.settings, demo_account(found.settings)))


def announce(settings: Settings, *, show_key: bool = False) -> None:
    """Say where the running stack is reached and where its data lies; the key only if asked."""
    console.print(f"[bold green]EcoLink runs[/] at [bold]{settings.gateway_url}[/]")
    account = demo_account(settings)
    console.print(f"Sign in, once, in your browser: [bold]{sign_in_link(settings, account)}[/]")
    if show_key:
        console.print(f"API key of the demo account: [bold]{account.key}[/]")
    else:
        console.print("Start with `ecolink up --show-key` to print the demo account's API key.")
    if settings.test_payments:
        said = "Test payments are on: account holders top up without paying."
        console.print(said, style="yellow", soft_wrap=True)
    console.print(f"Data, logs and passwords are in {settings.home}; Ctrl-C stops it.")


def status_table(found: StackState, now: datetime) -> Table:
    """The supervisor and its children, one row each."""
    table = Table(title=f"EcoLink is {found.phase}", title_justify="left")
    for heading in ("process", "state"):
        table.add_column(heading)
    for heading in ("pid", "for", "restarts"):
        table.add_column(heading, justify="right")
    table.add_row("supervisor", found.phase, str(found.pid), duration(now - found.since), "")
    for child in found.children:
        colour = COLOURS[child.state]
        table.add_row(
            child.name,
            f"[{colour}]{child.state}[/]",
            str(child.pid or ""),
            duration(now - child.since),
            str(child.restarts),
        )
    return table


def duration(elapsed: timedelta) -> str:
    """A span in its two largest units, such as `3 h 20 min`."""
    seconds = max(0, int(elapsed.total_seconds()))
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"


def fail(message: str) -> NoReturn:
    """Say what went wrong and end with status 1."""
    console.print(message, style="red", markup=False)
    raise typer.Exit(1)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
