"""`ecolink audit`, which verifies that all stored data agrees with the event log."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer
from rich.console import Console
from rich.table import Table

from deploy.local.errors import StackError
from deploy.local.stack import stack
from domain.core.money import exact_dollars
from gateway.cli.exits import ExitCode
from gateway.cli.terminal import AsJson, fail
from infrastructure.settings import Settings
from services.projector.audit import Findings, audit

commands = typer.Typer(name="audit", help="Compare all stored data with the event log.")


@commands.command()
def verify(as_json: AsJson = False) -> None:
    """Replay every event and compare the result with all stored data.

    This compares projections, balances, snapshots, consumer positions and billing's evidence. The
    exit status is 1 if anything differs.
    """
    try:
        with stack(Settings(), services={}) as settings:
            findings = audit(settings)
    except StackError as error:
        fail(str(error), ExitCode.FAILED)
    if as_json:
        typer.echo(json.dumps(asdict(findings), default=str, indent=1))
    else:
        _show(findings)
    raise typer.Exit(1 if findings.differences else 0)


def _show(findings: Findings) -> None:
    console = Console()
    table = Table(
        title=(f"Replayed events: {findings.events:,}, up to notification {findings.head:,}")
    )
    for column in ("table", "at", "behind", "rows", "live", "replayed", ""):
        number = column in ("at", "behind", "rows")
        table.add_column(column, justify="right" if number else "left")
    for each in findings.tables:
        table.add_row(
            each.table,
            str(each.position),
            str(each.lag),
            str(each.live.rows),
            each.live.sha256[:12],
            each.refolded.sha256[:12],
            "[green]equal[/]" if each.equal else "[red]DIFFERS[/]",
        )
    console.print(table)
    console.print(
        f"Checked: accounts {findings.accounts:,}, meters {findings.meters:,}, minutes "
        f"{findings.minutes:,}, snapshots {findings.snapshots:,}. Trial balance: "
        f"{exact_dollars(findings.trial_balance_micros)}"
    )
    for difference in findings.differences:
        console.print(f"[red]{difference.text}[/]")
    if not findings.differences:
        console.print("[green]Nothing differs from the event log.[/]")
