"""The commands `ecolink up`, `down`, `status` and `sign-in`."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import Annotated, NoReturn

import psutil
import typer
from rich.console import Console
from rich.table import Table

from deploy.demo.account import demo_account, sign_in_link
from deploy.demo.preparing import offer_first_base
from deploy.local import stack
from deploy.local.errors import StackError
from deploy.local.health import problems
from deploy.local.plan import DEFAULT_PORT
from deploy.local.state import ChildState, StackPhase, StackState
from domain.core.durations import spoken
from infrastructure.bus.event_handlers import UNREACHABLE
from infrastructure.extensions import unknown_variables
from infrastructure.process.clock import clock_of
from infrastructure.settings import Settings

commands = typer.Typer()
console = Console(highlight=False)

TEST_PAYMENTS = "Test payments are enabled: account holders can top up without paying."
MAKE_SECONDS = 0.5
"""Seconds between two checks of the signals of `make`."""

COLORS = {
    ChildState.RUNNING: "green",
    ChildState.STARTING: "yellow",
    ChildState.BACKOFF: "red",
    ChildState.STOPPING: "yellow",
    ChildState.STOPPED: "dim",
}


@commands.command()
def up(
    show_key: Annotated[bool, typer.Option(help="Print the demo account's API key.")] = False,
    no_demo: Annotated[
        bool, typer.Option("--no-demo", help="Create no demo account, as on a server.")
    ] = False,
) -> None:
    """Start EcoLink on this machine and keep it running until you press Ctrl-C."""
    settings = Settings()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    Thread(target=_follow_make, daemon=True).start()
    for each in unknown_variables():
        console.print(f"Warning: {each}", style="yellow", markup=False)
    console.print(f"Starting EcoLink in {settings.home.resolve()} ...")
    try:
        with stack.up(settings) as started:
            # From here on, block KeyboardInterrupt, because a library could swallow it.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: started.supervisor.terminate())
            if settings.gateway_port is None and started.settings.gateway_port != DEFAULT_PORT:
                console.print(
                    f"Another program uses port {DEFAULT_PORT}. To select a port, set "
                    "ECOLINK_GATEWAY_PORT."
                )
            with suppress(*UNREACHABLE):  # the supervisor has ended, which is reported below
                announce(started.settings, demo=not no_demo, show_key=show_key)
                if not no_demo:
                    Thread(target=_offer_base, args=(started.settings,), daemon=True).start()
            if started.supervisor.wait() != 0:
                fail(f"The supervisor failed. See its log in {started.settings.home / 'logs'}.")
    except KeyboardInterrupt:
        pass
    except StackError as error:
        fail(str(error))
    console.print("EcoLink has stopped. Its data remains.")


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
    """Show the processes of the running EcoLink, and problems that need an operator.

    The exit status is 1 if EcoLink is not running, if a consumer is more than five minutes behind,
    or if an event is parked.
    """
    settings = Settings()
    found = stack.state(settings.home)
    if found is None:
        console.print(f"EcoLink is not running in {settings.home.resolve()}.")
        raise typer.Exit(1)
    console.print(status_table(found, datetime.now(UTC)))
    if found.settings.gateway_url:
        console.print(f"{found.settings.gateway_url}  {found.settings.home}", style="dim")
    if found.phase is not StackPhase.READY:
        raise typer.Exit(1)
    found_problems = problems(found.settings, found.roles, clock_of(found.settings).now())
    for problem in found_problems:
        console.print(problem, style="red", markup=False)
    if found_problems:
        raise typer.Exit(1)


@commands.command("sign-in")
def sign_in() -> None:
    """Print a link that signs a browser in to the demo account.

    The link works once and expires after 30 minutes.
    """
    found = stack.state(Settings().home)
    if found is None or found.phase is not StackPhase.READY:
        fail("EcoLink is not running here. Start it with `ecolink up`.")
    print(sign_in_link(found.settings, demo_account(found.settings)))


def announce(settings: Settings, *, demo: bool = True, show_key: bool = False) -> None:
    """Print the address and data directory of the stack.

    If `demo` is true, create the demo account and print a link that signs in to it. If `show_key`
    is true, print its API key too.
    """
    console.print(f"[bold green]EcoLink is running[/] at [bold]{settings.gateway_url}[/]")
    if demo:
        _announce_demo(settings, show_key=show_key)
    if settings.test_payments:
        console.print(TEST_PAYMENTS, style="yellow", soft_wrap=True)
    console.print(f"Data, logs and passwords are in {settings.home}. Press Ctrl-C to stop.")


def _announce_demo(settings: Settings, *, show_key: bool) -> None:
    account = demo_account(settings)
    console.print(
        f"Open this link to sign in. It works once: [bold]{sign_in_link(settings, account)}[/]"
    )
    if show_key:
        console.print(f"API key of the demo account: [bold]{account.key}[/]")
    else:
        console.print("To print the demo account's API key, start with `ecolink up --show-key`.")


def _offer_base(settings: Settings) -> None:
    """Import a base model if there is none, so that the demo account can train."""
    try:
        with suppress(*UNREACHABLE):  # EcoLink has ended
            offer_first_base(settings, console.print)
    except StackError as error:
        console.print(
            f"{error} Without a base model, no job can train. Run `ecolink models import`.",
            style="red",
            markup=False,
        )


def status_table(found: StackState, now: datetime) -> Table:
    """Return a table with one row for the supervisor and one for each child."""
    table = Table("process", "state", title=f"EcoLink is {found.phase}", title_justify="left")
    for heading in ("pid", "for", "restarts"):
        table.add_column(heading, justify="right")
    table.add_row(
        "supervisor", found.phase, str(found.pid), spoken((now - found.since).total_seconds()), ""
    )
    for child in found.children:
        color = COLORS[child.state]
        table.add_row(
            child.name if len(child.roles) < 2 else f"{child.name}: {', '.join(child.roles)}",
            f"[{color}]{child.state}[/]",
            str(child.pid or ""),
            spoken((now - child.since).total_seconds()),
            str(child.restarts),
        )
    return table


def fail(message: str) -> NoReturn:
    """Print the error and exit with status 1."""
    console.print(message, style="red", markup=False)
    raise typer.Exit(1)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Stop the start once. A second signal must not end the wait for the stop."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _follow_make() -> None:
    """Send SIGTERM to this process after a SIGINT to the `make` that started it.

    A SIGINT that only `make` receives reaches no recipe: `make` blocks the signal, and waits.
    """
    with suppress(psutil.Error, OSError):
        while psutil.Process(os.getppid()).name() == "make":
            status = Path(f"/proc/{os.getppid()}/status").read_text()
            blocked = int(status.partition("SigBlk:")[2].split()[0], 16)
            if blocked >> (signal.SIGINT - 1) & 1:
                os.kill(os.getpid(), signal.SIGTERM)
                return
            time.sleep(MAKE_SECONDS)
