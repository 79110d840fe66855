"""`ecolink upgrade`, which shows the versions of all processes and finishes an upgrade."""

from __future__ import annotations

from datetime import UTC, datetime

import typer
from rich.console import Console
from rich.table import Table

from deploy.migrate import seed_catalog
from deploy.operator.store import open_store
from domain.catalog.catalog_entries import shipped_offers
from domain.core.aggregate import current_cause
from domain.core.durations import spoken
from domain.core.event_format import FORMAT
from gateway.cli.exits import ExitCode
from gateway.cli.terminal import fail
from infrastructure.postgres.presence import follow_format
from infrastructure.postgres.upgrade import OlderProcesses, UpgradeStatus, upgrade_status
from infrastructure.postgres.upgrade import finish as finish_upgrade
from infrastructure.process.clock import clock_of
from infrastructure.process.code_version import package_version

commands = typer.Typer(
    name="upgrade", no_args_is_help=True, help="Follow and finish an upgrade of several machines."
)
console = Console(highlight=False, markup=False)


@commands.command()
def status() -> None:
    """Show all running processes with their versions, and the format of the event log in use.

    The exit status is 1 if an upgrade is not finished.
    """
    with open_store() as store:
        found = upgrade_status(store.connection)
    console.print(f"The event log uses format {found.in_use}.")
    console.print(f"This command is EcoLink {package_version()} (format {FORMAT}).")
    if found.processes:
        console.print(process_table(found, datetime.now(UTC)))
    else:
        console.print("No process of EcoLink runs.")
    if not found.unfinished:
        console.print("No upgrade is in progress.")
        return
    if found.older:
        text = "Some processes are older. Upgrade them first."
    else:
        text = "All processes are upgraded. Run `ecolink upgrade finish`."
    console.print(f"The upgrade to format {found.newest} is not finished. {text}", style="yellow")
    raise typer.Exit(ExitCode.FAILED)


@commands.command()
def finish() -> None:
    """Let EcoLink store events that only the new version reads.

    Run this command with the new version, when all processes run it. Afterwards, you cannot go back
    to the old version without restoring a backup. The command fails if an older process runs.
    """
    with open_store() as store:
        try:
            raised = finish_upgrade(store.connection, current_cause().actor)
        except OlderProcesses as error:
            fail(str(error), ExitCode.FAILED)
        follow_format(store.log, store.connection)
        seed_catalog(store.log, clock_of(store.settings), shipped_offers())
    if raised:
        console.print(f"The upgrade is finished. The event log uses format {FORMAT}.")
    else:
        console.print(f"Nothing to finish: the event log already uses format {FORMAT}.")


def process_table(found: UpgradeStatus, now: datetime) -> Table:
    """Return a table of the running processes, the older ones first."""
    table = Table(box=None, pad_edge=False)
    for heading in ("process", "host", "pid", "version", "format", "runs for", "seen"):
        table.add_column(heading, justify="right" if heading in ("pid", "format") else "left")
    for each in found.processes:
        runs, seen = ((now - at).total_seconds() for at in (each.started, each.seen))
        table.add_row(
            each.service,
            each.host,
            str(each.pid),
            each.version,
            str(each.format),
            spoken(max(0.0, runs)),
            f"{max(0.0, seen):.0f} s ago",
            style="yellow" if each in found.older else None,
        )
    return table
