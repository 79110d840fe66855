"""`ecolink doctor`, which checks a machine and its settings before and after the installation."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from asyncio import run
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from uuid import uuid4

import psutil
import psycopg
import typer
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from packaging.requirements import Requirement
from rich.console import Console

from deploy.local.home import Home
from deploy.local.ports import is_free
from deploy.local.stack import running
from gateway.cli.terminal import AsJson
from infrastructure import bus
from infrastructure.artifacts import STORE_ERRORS, Artifacts
from infrastructure.disk_space import GIB, DiskLevel, disk_space
from infrastructure.settings import Settings
from infrastructure.store import connect, database_time, scalar

commands = typer.Typer()

OLDEST_PYTHON = (3, 11)
OLDEST_POSTGRES = 150_000
"""Oldest supported version of PostgreSQL, as `server_version_num`."""

LEAST_MEMORY_GIB = 4
MAX_CLOCK_DIFFERENCE = timedelta(seconds=2)

TRAINING = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")


class Level(StrEnum):
    """Result of a check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Check:
    """A result, with the fix if something is wrong."""

    name: str
    level: Level
    text: str


@commands.command()
def doctor(as_json: AsJson = False) -> None:
    """Check this machine and the settings: versions, disk, memory, GPU, ports, clock and servers.

    Works before the first start and while EcoLink runs. Exits with 1 if a check fails.
    """
    checks = list(all_checks(Settings()))
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in checks], indent=1))
    else:
        _show(checks)
    raise typer.Exit(1 if any(each.level is Level.FAILED for each in checks) else 0)


def all_checks(settings: Settings) -> Iterator[Check]:
    """Run all checks. A check of a server that is not configured is omitted."""
    found = running(settings.home)
    joined = found or settings
    yield _python()
    yield from _packages()
    yield _home(settings)
    yield _disk(settings)
    yield _memory()
    yield _gpu()
    yield _user()
    if found is None:
        yield from _ports(settings)
    if joined.database_url is not None:
        yield from _database(joined)
    if joined.nats_url is not None:
        yield _nats(joined)
    yield _artifacts(joined)
    yield _seal_key(joined)


def _python() -> Check:
    shown = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        return Check("python", Level.FAILED, f"Python {shown}. Install {wanted} or later.")
    return Check("python", Level.OK, f"Python {shown}")


def _packages() -> Iterator[Check]:
    """Compare the installed packages with the requirements of EcoLink."""
    wrong = sorted(filter(None, map(_unmet, requires("ecolink") or ())))
    if wrong:
        fix = "Run `pip install 'ecolink[trainer]'` with the file constraints.txt."
        yield Check("packages", Level.FAILED, f"{', '.join(wrong)}. {fix}")
    else:
        yield Check("packages", Level.OK, f"EcoLink {version('ecolink')} with all its packages")
    missing = [name for name in TRAINING if _version(name) is None]
    if missing:
        fix = "This machine cannot train or serve. Run `pip install 'ecolink[trainer]'`."
        yield Check("training", Level.WARNING, f"{', '.join(missing)}: not installed. {fix}")
    else:
        shown = ", ".join(f"{name} {_version(name)}" for name in TRAINING)
        yield Check("training", Level.OK, shown)


def _unmet(text: str) -> str | None:
    """Return what is wrong with a requirement of EcoLink itself, or None."""
    wanted = Requirement(text)
    if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
        return None
    found = _version(wanted.name)
    if found is None:
        return f"{wanted.name} is not installed"
    if not wanted.specifier.contains(found, prereleases=True):
        return f"{wanted.name} {found} is installed, but {wanted.specifier} is needed"
    return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _home(settings: Settings) -> Check:
    home = Home.of(settings)
    place = home.root if home.root.exists() else _existing_parent(home.root)
    if not os.access(place, os.W_OK | os.X_OK):
        fix = "Change its owner, or set another ECOLINK_HOME."
        return Check("home", Level.FAILED, f"{place} is not writable. {fix}")
    secrets = (home.root / "secrets.json", home.root / "run", settings.seal_key_file)
    readable = [str(each) for each in secrets if each.exists() and _others_may_read(each)]
    if readable:
        fix = f"Run `chmod -R go= {home.root}`."
        return Check("home", Level.FAILED, f"Other users can read {', '.join(readable)}. {fix}")
    return Check("home", Level.OK, f"{home.root}")


def _existing_parent(path: Path) -> Path:
    return next(each for each in path.parents if each.exists())


def _others_may_read(path: Path) -> bool:
    return bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


def _disk(settings: Settings) -> Check:
    home = Home.of(settings).root
    place = home if home.exists() else _existing_parent(home)
    space = disk_space(settings.model_copy(update={"home": place}))
    level = {DiskLevel.OK: Level.OK, DiskLevel.LOW: Level.WARNING}.get(space.level, Level.FAILED)
    fix = "" if level is Level.OK else " Free some space, or set another ECOLINK_HOME."
    return Check("disk", level, f"{space} at {place}.{fix}")


def _memory() -> Check:
    total = psutil.virtual_memory().total / GIB
    if total < LEAST_MEMORY_GIB:
        text = f"{total:.1f} GiB. EcoLink needs {LEAST_MEMORY_GIB} GiB, without training."
        return Check("memory", Level.WARNING, text)
    return Check("memory", Level.OK, f"{total:.1f} GiB, {os.cpu_count()} CPUs")


def _gpu() -> Check:
    """Ask the driver, because loading torch takes seconds."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return Check("gpu", Level.OK, "No NVIDIA driver. Jobs on this machine train on the CPU.")
    query = (program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = " ".join((done.stdout + done.stderr).split())
        fix = "Install the driver again, and restart the machine."
        return Check("gpu", Level.FAILED, f"nvidia-smi failed: {said} {fix}")
    return Check("gpu", Level.OK, "; ".join(done.stdout.split("\n")).strip("; "))


def _user() -> Check:
    if os.geteuid() == 0:
        text = "Running as root. Create a user for EcoLink; trainers run as the same user."
        return Check("user", Level.WARNING, text)
    return Check("user", Level.OK, f"uid {os.geteuid()}")


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


def _database(settings: Settings) -> Iterator[Check]:
    try:
        with connect(settings) as connection:
            number = int(scalar(connection, "SHOW server_version_num"))
            commit = scalar(connection, "SHOW synchronous_commit")
            sent = datetime.now(UTC)
            difference = abs(database_time(connection) - sent)
    except psycopg.Error as error:
        reason = " ".join(str(error).split())
        fix = "Correct ECOLINK_DATABASE_URL, or start the server."
        yield Check("postgresql", Level.FAILED, f"Cannot connect: {reason} {fix}")
        return
    if number < OLDEST_POSTGRES:
        text = f"Version {number // 10_000}. Upgrade to {OLDEST_POSTGRES // 10_000} or later."
        yield Check("postgresql", Level.FAILED, text)
    elif commit == "off":
        text = "synchronous_commit is off, so a crash would lose events. Turn it on."
        yield Check("postgresql", Level.FAILED, text)
    else:
        yield Check("postgresql", Level.OK, f"Version {number // 10_000}")
    if difference > MAX_CLOCK_DIFFERENCE:
        text = (
            f"This machine and PostgreSQL differ by {difference.total_seconds():.0f} s. "
            "Synchronize both with NTP. EcoLink bills by the clock of PostgreSQL."
        )
        yield Check("clock", Level.FAILED, text)
    else:
        yield Check("clock", Level.OK, "The same as that of PostgreSQL")


def _nats(settings: Settings) -> Check:
    async def ask() -> str:
        connection = await bus.connect(settings, connect_timeout=5, max_reconnect_attempts=1)
        try:
            await connection.jetstream().account_info()
            return str(connection.connected_server_version)
        finally:
            await connection.close()

    try:
        return Check("nats", Level.OK, f"Version {run(ask())} with JetStream")
    except (NatsError, JetStreamError, OSError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        fix = "Correct ECOLINK_NATS_URL and ECOLINK_NATS_CREDENTIALS, and enable JetStream."
        return Check("nats", Level.FAILED, f"Cannot use NATS: {reason}. {fix}")


def _artifacts(settings: Settings) -> Check:
    """Write, read and delete a file, unless the store is a folder that does not exist yet."""
    url = settings.artifacts
    folder = Path(url.removeprefix("file://"))
    if url.startswith("file://") and not folder.exists():
        return Check("artifacts", Level.OK, f"{url} is created at the first start")
    ref, content = f"doctor/{uuid4()}", os.urandom(64)
    fix = "Correct ECOLINK_ARTIFACTS_URL and its credentials."
    try:
        artifacts = Artifacts(url)
        artifacts.put(ref, content)
        same = artifacts.get(ref) == content
        artifacts.delete(ref)
    except (*STORE_ERRORS, FileNotFoundError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        return Check("artifacts", Level.FAILED, f"Cannot write to {url}: {reason}. {fix}")
    if not same:
        return Check("artifacts", Level.FAILED, f"{url} returned other bytes. {fix}")
    return Check("artifacts", Level.OK, url)


def _seal_key(settings: Settings) -> Check:
    path = settings.seal_key_file
    if not path.exists():
        return Check("seal key", Level.OK, f"{path} is created at the first start")
    return Check("seal key", Level.OK, f"{path}. Keep a copy elsewhere; see docs/backup.md.")


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
