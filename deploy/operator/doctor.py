"""`ecolink doctor`, which checks a machine and its settings before and after the installation."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import typer
from rich.console import Console

from deploy.local.home import Home
from deploy.local.ports import is_free
from deploy.local.stack import recorded_variables, running
from gateway.cli.terminal import AsJson
from infrastructure.checks.machine import (
    Check,
    Level,
    existing_parent,
    machine_checks,
    server_checks,
)
from infrastructure.checks.standbys import standby_checks
from infrastructure.checks.streams import stream_checks
from infrastructure.settings import Settings
from services.scheduler.launchers.registry import launcher_checks

commands = typer.Typer()


@commands.command()
def doctor(as_json: AsJson = False) -> None:
    """Check this machine and the settings: versions, disk, memory, GPU, ports, clock and servers.

    Works before the first start and while EcoLink runs. Exits with 1 if a check fails.
    """
    settings = Settings()
    os.environ.update(recorded_variables(settings.home))
    checks = list(all_checks(settings))
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in checks], indent=1))
    else:
        _show(checks)
    raise typer.Exit(1 if any(each.level is Level.FAILED for each in checks) else 0)


def all_checks(settings: Settings) -> Iterator[Check]:
    """Run all checks. A check of a server that is not configured is omitted."""
    found = running(settings.home)
    joined = found or settings
    yield _home(settings)
    yield from machine_checks(settings)
    if found is None:
        yield from _ports(settings)
    yield from server_checks(joined)
    yield from launcher_checks(joined)
    yield from standby_checks(joined)
    yield from stream_checks(joined)
    yield _seal_key(joined)


def _home(settings: Settings) -> Check:
    home = Home.of(settings)
    place = existing_parent(home.root)
    if not os.access(place, os.W_OK | os.X_OK):
        fix = "Change its owner, or set another ECOLINK_HOME."
        return Check("home", Level.FAILED, f"{place} is not writable. {fix}")
    secrets = (home.root / "secrets.json", home.root / "run", settings.seal_key_file)
    readable = [str(each) for each in secrets if each.exists() and _others_may_read(each)]
    if readable:
        fix = f"Run `chmod -R go= {home.root}`."
        return Check("home", Level.FAILED, f"Other users can read {', '.join(readable)}. {fix}")
    return Check("home", Level.OK, f"{home.root}")


def _others_may_read(path: Path) -> bool:
    return bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


def _ports(settings: Settings) -> Iterator[Check]:
    """Check the configured ports of servers that do not run yet."""
    wanted = {
        "ECOLINK_GATEWAY_PORT": (settings.gateway_host, settings.gateway_port),
        "ECOLINK_SERVING_PORT": (settings.serving_host, settings.serving_port),
    }
    if settings.database_url is None:
        wanted["ECOLINK_POSTGRES_PORT"] = ("127.0.0.1", settings.postgres_port)
    if settings.nats_url is None:
        wanted["ECOLINK_NATS_PORT"] = ("127.0.0.1", settings.nats_port)
    for name, (host, port) in wanted.items():
        if port and not is_free(host, port):
            text = f"Another program uses {host}:{port}. Stop it, or set another {name}."
            yield Check("ports", Level.FAILED, text)


def _seal_key(settings: Settings) -> Check:
    path = settings.seal_key_file
    if not path.exists():
        return Check("seal key", Level.OK, f"{path} is created at the first start")
    return Check(
        "seal key", Level.OK, f"{path}. Keep a copy elsewhere; see docs/operate/backup.md."
    )


MARKS: dict[Level, str] = {
    Level.OK: "[green]ok[/]",
    Level.WARNING: "[yellow]warning[/]",
    Level.FAILED: "[red]failed[/]",
}


def _show(checks: list[Check]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    width = max(len(each.name) for each in checks)
    for each in checks:
        console.print(f"{each.name:<{width}}  {MARKS[each.level]:<9} ", end="")
        console.print(each.text, markup=False)
    failed = sum(each.level is Level.FAILED for each in checks)
    console.print(
        f"[red]Failed checks: {failed}.[/]" if failed else "[green]EcoLink can run here.[/]"
    )
