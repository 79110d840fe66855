"""`make bench-live`: measure the time from an event's commit to the frame on open pages."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import IO, Annotated
from uuid import UUID

import httpx
import psutil
import typer
from rich.console import Console
from rich.table import Table

from deploy.local.commands import fail
from deploy.local.errors import StackError
from deploy.local.ports import free_port
from deploy.local.stack import up
from deploy.processes import PROCESSES, environment
from gateway.backend import open_backend
from gateway.http.sessions import COOKIE
from gateway.jobs.pages.view import views_of
from gateway.schemas import job_name
from infrastructure.settings import Settings
from tests.bench.live_clients import MODULE, ClientsConfig, Received, View
from tests.bench.live_jobs import Platform

AIM_SECONDS = 0.25
START_SECONDS, DRAIN_SECONDS = 180.0, 5.0
SERVICES = {name: PROCESSES[name] for name in ("relay", "projector")}


@dataclass
class Run:
    """The measurements of a run."""

    written: Mapping[int, Mapping[int, float]]  # by job: sequence -> time of its commit
    checkpoints: Mapping[tuple[int, int], float]  # (job, step) -> time of its commit
    steps: Set[int] = frozenset()  # of every job
    lines: Set[int] = frozenset()  # of every job's log
    away: tuple[float, float] = (0.0, 0.0)  # from the gateway's end until all are reconnected
    received: list[Received] = field(default_factory=list)
    bytes_per_client: float = 0.0
    view_seconds: float = 0.0
    cpu_share: float = 0.0  # share of a core that the gateway uses

    def was_away(self, moment: float) -> bool:
        """True if the gateway, or a client's connection to it, was down."""
        return self.away[0] <= moment <= self.away[1]

    def event_seconds(self) -> list[float]:
        """Seconds from each commit to each frame with the event, while the gateway was up."""
        return [
            moment - self.written[each.job][sequence]
            for each in self.received
            for sequence, moment in each.events
            if sequence in self.written[each.job]
            and not self.was_away(self.written[each.job][sequence])
        ]

    def view_delays(self) -> list[float]:
        """Seconds from each commit of a checkpoint to the view with it."""
        return [
            moment - self.checkpoints[each.job, step]
            for each in self.received
            for step, moment in each.checkpoints
            if (each.job, step) in self.checkpoints
            and not self.was_away(self.checkpoints[each.job, step])
        ]

    def faults(self) -> dict[str, tuple[int, int]]:
        """Lost and repeated events, steps and lines, over all clients."""
        kinds: dict[str, list[tuple[Set[int], list[int]]]] = {
            "events": [
                (self.written[each.job].keys(), [sequence for sequence, _ in each.events])
                for each in self.received
            ],
            "steps": [(self.steps, each.steps) for each in self.received],
            "lines of the log": [(self.lines, each.lines) for each in self.received],
        }
        return {
            kind: (
                sum(len(written - set(seen)) for written, seen in clients),
                sum(len(seen) - len(set(seen)) for _, seen in clients),
            )
            for kind, clients in kinds.items()
        }


def bench(
    clients: Annotated[int, typer.Option(min=1, help="Pages that are open.")] = 1000,
    jobs: Annotated[int, typer.Option(min=1, help="Running jobs that they show.")] = 50,
    seconds: Annotated[int, typer.Option(min=10, help="Half before, half after a restart.")] = 60,
) -> None:
    """Measure time from commit to frame, memory per client, and losses of a gateway restart.

    PostgreSQL, NATS, relay, projector and gateway are real processes. No trainer runs. Its events,
    steps and log lines are written through the same aggregates: an event per job every 4 seconds, a
    step every second, a line every 10. Exits with 1 if one of them was lost or came twice.
    """
    console = Console(highlight=False)
    try:
        with tempfile.TemporaryDirectory(prefix="ecolink-live-") as folder:
            home = Path(folder)
            home.chmod(0o755)
            with up(Settings(home=home / "home"), SERVICES) as started:
                port = free_port(0)
                settings = started.settings.model_copy(
                    update={
                        "gateway_port": port,
                        "gateway_url": f"http://127.0.0.1:{port}",
                        "limits": _limits(clients),
                    }
                )
                run = measure(console, settings, clients, jobs, seconds)
    except StackError as error:
        fail(str(error))
    _report(console, run, clients, jobs)
    if any(map(any, run.faults().values())):
        raise typer.Exit(1)


def measure(console: Console, settings: Settings, clients: int, jobs: int, seconds: int) -> Run:
    """Run the clients against training jobs, with a new gateway after half of the time."""
    with Platform.opened(settings, jobs) as platform, Gateway(settings) as gateway:
        platform.advance(5)  # the first views
        before = gateway.process.memory_info().rss
        with _clients(settings, platform, clients) as (output, commands):
            began = time.time()
            _expect(output, "ready")
            console.print(f"{clients} clients are there after {time.time() - began:.1f} s")
            run = Run(platform.written, platform.checkpoints)
            used = gateway.cpu_seconds()
            platform.advance(seconds / 2)
            run.cpu_share = 2 * (gateway.cpu_seconds() - used) / seconds
            run.bytes_per_client = (gateway.process.memory_info().rss - before) / clients
            run.view_seconds = _view_seconds(settings, platform.job_ids)
            gone = time.time()
            gateway.stop()
            gateway.start(platform.advance)
            _expect(output, "back", platform)
            run.away = (gone, time.time())
            console.print(f"all are back {run.away[1] - gone:.1f} s after the gateway was ended")
            platform.advance(seconds / 2)
            time.sleep(DRAIN_SECONDS)
            commands.write("stop\n")
            commands.flush()
            run.received = [Received.model_validate_json(line) for line in output]
            run.steps, run.lines = map(frozenset, platform.measured)
    return run


def _limits(clients: int) -> dict[str, int]:
    """Limits that allow all clients, which have one address and few accounts."""
    most, requests = 2 * clients + 100, 1000 * clients
    return {
        **{"connections": most, "address_connections": most, "sockets": most},
        **{"address_requests": requests, "requests": requests},
    }


class Gateway:
    """A gateway process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __enter__(self) -> Gateway:
        self.start(time.sleep)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, wait: Callable[[float], None]) -> None:
        """Start the process, and call `wait` with seconds until it is ready."""
        self._started = subprocess.Popen(
            [sys.executable, "-m", "deploy.run", "gateway"],
            env=os.environ | environment(self._settings),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.process = psutil.Process(self._started.pid)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                if httpx.get(f"{self._settings.gateway_url}/healthz").is_success:
                    return
            wait(0.2)
        self.stop()
        raise StackError("The gateway did not start.")

    def stop(self) -> None:
        self._started.terminate()
        self._started.wait(20)

    def cpu_seconds(self) -> float:
        used = self.process.cpu_times()
        return used.user + used.system


@contextmanager
def _clients(
    settings: Settings, platform: Platform, count: int
) -> Iterator[tuple[IO[str], IO[str]]]:
    """The clients' process: its output, and the pipe that stops it."""
    after = platform.head
    views = [
        View(
            job=number % len(platform.job_ids),
            path=f"/fine-tune/{job_name(platform.job_ids[number % len(platform.job_ids)])}",
            cookie=f"{COOKIE}={platform.token_of(number % len(platform.job_ids))}",
            after=after,
        )
        for number in range(count)
    ]
    platform.forget_written()
    url = str(settings.gateway_url).replace("http", "ws", 1)
    with subprocess.Popen(
        [sys.executable, "-m", MODULE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(ClientsConfig(url=url, views=views).model_dump_json() + "\n")
        process.stdin.flush()
        try:
            yield process.stdout, process.stdin
        finally:
            process.kill()


def _expect(output: IO[str], word: str, platform: Platform | None = None) -> None:
    """Wait for a word from the clients while the jobs continue."""
    os.set_blocking(output.fileno(), False)
    deadline = time.monotonic() + START_SECONDS
    heard = ""
    while word not in heard:
        if time.monotonic() > deadline:
            raise StackError(f"The clients are not {word} after {START_SECONDS:.0f} s.")
        heard += output.readline() or ""
        if platform is not None:
            platform.advance(0.05)
        else:
            time.sleep(0.05)
    os.set_blocking(output.fileno(), True)


def _view_seconds(settings: Settings, job_ids: Sequence[UUID]) -> float:
    """Seconds of a view, queries and HTML, in batches like the gateway's."""
    with open_backend(settings) as backend:
        views_of(backend, job_ids[:1])
        began = time.perf_counter()
        for first in range(0, len(job_ids), 10):
            for view in views_of(backend, job_ids[first : first + 10]).values():
                assert view.parts()
        return (time.perf_counter() - began) / len(job_ids)


def _report(console: Console, run: Run, clients: int, jobs: int) -> None:
    events, views = run.event_seconds(), run.view_delays()
    table = Table("from commit to frame", "frames", "p50 ms", "p95 ms", "p99 ms", "most ms")
    for name, found in (("the event", events), ("the view that has seen it", views)):
        if len(found) > 1:
            cuts = quantiles(found, n=100, method="inclusive")
            shown = [f"{1000 * each:.0f}" for each in (cuts[49], cuts[94], cuts[98], max(found))]
            table.add_row(name, f"{len(found):,}", *shown)
    console.print(table)
    written = sum(len(each) for each in run.written.values())
    away = sum(run.was_away(at) for each in run.written.values() for at in each.values())
    faults = ", ".join(
        f"{lost} {kind} lost and {doubled} doubled"
        for kind, (lost, doubled) in run.faults().items()
    )
    console.print(
        f"{clients} clients, {jobs} jobs, {written} events, {away} of them while the gateway was "
        f"away, {len(run.steps)} steps and {len(run.lines)} lines of each job: {faults} over all "
        f"clients; {sum(each.loads for each in run.received)} curves or logs loaded again\n"
        f"{run.bytes_per_client / 1000:.0f} kB of the gateway's memory for each client, and "
        f"{run.cpu_share:.0%} of a core for all of them; "
        f"{1000 * run.view_seconds:.1f} ms to read and render a view, once for all of its viewers"
    )
    if len(events) > 1:
        p99 = quantiles(events, n=100, method="inclusive")[98]
        console.print(f"p99 {1000 * p99:.0f} ms; the aim is {1000 * AIM_SECONDS:.0f} ms")


if __name__ == "__main__":
    typer.run(bench)
