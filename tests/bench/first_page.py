"""`make bench-first-page`: the first page of `ecolink up`, and what an idle installation uses."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.table import Table

from deploy.local.ports import free_port
from infrastructure.process.code_version import TREE
from tests.bench.aims import Verdict, conclude

PAGE = "/sign-in"
START_SECONDS = 300.0
POLL_SECONDS = 0.05
AIM_SECONDS = 8.0  # median
AIM_PERCENT = 6.0  # of a core, while idle
AIM_MIB = 0.7 * 1024
TRAINERS, OWN = "trainers", "EcoLink"


@dataclass(frozen=True)
class Start:
    """A start of EcoLink on a new home."""

    seconds: float
    cpu_seconds: float
    """Processor time of all processes until the first page."""


@dataclass(frozen=True)
class Idle:
    """The use of an idle installation, by group of processes."""

    percent: dict[str, float]
    """Processor time, in percent of a core."""
    mib: dict[str, float]
    """Proportional memory (PSS)."""


def bench(
    runs: Annotated[int, typer.Option(min=1)] = 5,
    settle_seconds: Annotated[float, typer.Option(help="From a first page to idleness.")] = 60.0,
    idle_seconds: Annotated[float, typer.Option(help="While it is idle.")] = 60.0,
    before: Annotated[
        Path | None, typer.Option(help="Folder with another version of the source.")
    ] = None,
) -> None:
    """Start EcoLink on new homes. With `--before`, run both versions alternately."""
    console = Console(highlight=False)
    trees = ([] if before is None else [before.resolve()]) + [TREE]
    starts: dict[Path, list[Start]] = {tree: [] for tree in trees}
    idle: dict[Path, Idle] = {}
    for run in range(runs + 1):  # the first one compiles the modules
        for tree in trees:
            with _started(tree) as (start, process):
                console.print(f"{tree}: {start.seconds:.1f} s, CPU {start.cpu_seconds:.1f} s")
                if run > 0:
                    starts[tree].append(start)
                if run == runs:
                    time.sleep(settle_seconds)
                    idle[tree] = _idle(process, idle_seconds)
    for tree in trees:
        console.print(_table(str(tree), starts[tree], idle[tree]))
    conclude(console, _verdicts(starts[TREE], idle[TREE]))


@contextmanager
def _started(tree: Path) -> Iterator[tuple[Start, psutil.Process]]:
    """Start EcoLink on a new home, wait for its first page, and stop it in the end."""
    with tempfile.TemporaryDirectory(prefix="ecolink-first-page-") as folder:
        Path(folder).chmod(0o755)
        port = free_port()
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("ECOLINK_", "PYTHON"))
        }
        own = {"ECOLINK_HOME": f"{folder}/home", "ECOLINK_GATEWAY_PORT": str(port)}
        code = "from deploy.command import main; main()"
        began = time.monotonic()
        up = subprocess.Popen(
            [sys.executable, "-c", code, "up", "--no-demo"],
            env=inherited | own | {"PYTHONPATH": str(tree)},
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )
        try:
            while not _has_page(port):
                assert up.poll() is None, "EcoLink does not start"
                assert time.monotonic() - began < START_SECONDS, "EcoLink starts too slowly"
                time.sleep(POLL_SECONDS)
            seconds = time.monotonic() - began
            process = psutil.Process(up.pid)
            yield Start(seconds, sum(_cpu_seconds(process).values())), process
        finally:
            up.terminate()
            up.wait()


def _has_page(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", PAGE)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _processes(root: psutil.Process) -> Iterator[tuple[str, psutil.Process]]:
    """Yield the processes below one, with their groups."""
    for each in [root, *root.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            command = " ".join(each.cmdline())
            if "services.trainer" in command:
                yield TRAINERS, each
            else:
                name = each.name()
                yield {"postgres": "PostgreSQL", "nats-server": "NATS"}.get(name, OWN), each


def _cpu_seconds(root: psutil.Process) -> defaultdict[str, float]:
    """Return the processor time of each group, with that of ended processes."""
    used = defaultdict[str, float](float)
    for group, process in _processes(root):
        with suppress(psutil.NoSuchProcess):
            used[group] += sum(process.cpu_times()[:4])
    return used


def _idle(root: psutil.Process, seconds: float) -> Idle:
    before, began = _cpu_seconds(root), time.monotonic()
    time.sleep(seconds)
    after, passed = _cpu_seconds(root), time.monotonic() - began
    memory = dict.fromkeys(after, 0.0)
    for group, process in _processes(root):
        with suppress(psutil.NoSuchProcess):
            memory[group] += process.memory_full_info().pss / 1024**2
    used = {group: 100 * (after[group] - before[group]) / passed for group in after}
    return Idle(used, memory)


def _table(title: str, starts: list[Start], idle: Idle) -> Table:
    table = Table("measurement", title=title, title_justify="left")
    table.add_column("result", justify="right")
    seconds, cpu = ([f(each) for each in starts] for f in (_seconds, _cpu))
    for name, found in (("first page, s", seconds), ("CPU until then, s", cpu)):
        table.add_row(name, f"{median(found):.1f} ({min(found):.1f} to {max(found):.1f})")
    for group in sorted(idle.mib):
        table.add_row(f"idle {group}, % of a core", f"{idle.percent[group]:.1f}")
        table.add_row(f"memory (PSS) of {group}, MiB", f"{idle.mib[group]:.0f}")
    return table


def _seconds(start: Start) -> float:
    return start.seconds


def _cpu(start: Start) -> float:
    return start.cpu_seconds


def _verdicts(starts: list[Start], idle: Idle) -> list[Verdict]:
    seconds = median(map(_seconds, starts))
    percent, mib = (
        sum(figure for group, figure in figures.items() if group != TRAINERS)
        for figures in (idle.percent, idle.mib)
    )
    return [
        Verdict(f"first page: median {seconds:.1f} s", f"{AIM_SECONDS} s", seconds <= AIM_SECONDS),
        Verdict(
            f"idle, without trainers: {percent:.1f}% of a core",
            f"{AIM_PERCENT}%",
            percent <= AIM_PERCENT,
        ),
        Verdict(
            f"memory (PSS), without trainers: {mib:.0f} MiB", f"{AIM_MIB:.0f} MiB", mib <= AIM_MIB
        ),
    ]


if __name__ == "__main__":
    typer.run(bench)
