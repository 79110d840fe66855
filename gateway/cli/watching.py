"""Following a job until it is over or paused: live on a terminal, else line by line."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from functools import partial
from typing import Any

from rich.live import Live

from gateway.cli import job_progress
from gateway.cli.client import Client
from gateway.cli.exits import ExitCode
from gateway.cli.following import ENDINGS, job_states, leaving_it_running, patiently
from gateway.cli.terminal import screen, show_line

LINE_SECONDS = 5.0  # between two lines that tell no more than further steps
SETTLING_SECONDS = 10.0  # for the last part of a minute to be billed
SETTLING_POLL_SECONDS = 0.25

Job = dict[str, Any]


def follow(client: Client, job_id: str, as_json: bool) -> ExitCode:
    """Show a job until it rests; the exit code of how it ended. Raises ClientError."""
    console = screen()
    with leaving_it_running(job_id):
        if as_json:
            job = _json_lines(states(client, job_id))
        elif console.is_terminal:
            job = _live(client, job_id)
        else:
            job = _lines(states(client, job_id))
    if not as_json:
        console.print(job_progress.outcome(job))
    return ENDINGS[job["status"]]


def states(client: Client, job_id: str) -> Generator[Job]:
    """A job again and again, until it rests and its bill is closed. Raises ClientError."""
    job: Job = {}
    for job in job_states(client, job_id):
        yield job
    deadline = time.monotonic() + SETTLING_SECONDS
    bill = _Bill(client, job_id)
    while not bill.is_closed(job) and time.monotonic() < deadline:
        time.sleep(SETTLING_POLL_SECONDS)
        job = patiently(lambda: client.get(f"/jobs/{job_id}"))
    yield job


class _Bill:
    """What a job's closed meters come to; each look reads only what has happened since."""

    def __init__(self, client: Client, job_id: str) -> None:
        self._client = client
        self._path = f"/jobs/{job_id}/timeline"
        self._after = 0
        self._closed: list[int] = []

    def is_closed(self, job: Job) -> bool:
        """Whether every segment's meter is closed, and the job's cost includes all of it."""
        whole = partial(self._client.whole, self._path, "position", after=self._after)
        for event in patiently(whole)["data"]:
            self._after = event["position"]
            if event["topic"] == "MeterClosed":
                self._closed.append(event["fields"]["billed_seconds"])
        return len(self._closed) == job["segment"] and sum(self._closed) == job["billed_seconds"]


class _Lines:
    """Prints a line at once for a new state or a new figure of quality, else every few seconds."""

    TELLING = ("status", "phase", "segment", "checkpoint_step", "eval_step")

    def __init__(self) -> None:
        self._told: object = None
        self._line = ""
        self._at = 0.0

    def put(self, job: Job) -> None:
        """Print a line if it is worth it."""
        told, line = [job[name] for name in self.TELLING], job_progress.line(job)
        due = time.monotonic() - self._at >= LINE_SECONDS or job["status"] in ENDINGS
        if told != self._told or (due and line != self._line):
            print(line, flush=True)
            self._told, self._line, self._at = told, line, time.monotonic()


def _json_lines(following: Iterable[Job]) -> Job:
    """Every state that differs from the one before, as a line of JSON; returns the last."""
    shown: Job = {}
    for job in following:
        if job != shown:
            show_line(shown := job)
    return shown


def _lines(following: Iterable[Job]) -> Job:
    lines, job = _Lines(), {}
    for job in following:
        lines.put(job)
    return job


def _live(client: Client, job_id: str) -> Job:
    """The panel, kept up to date; its last state stays on the screen."""
    job: Job = {}
    losses: list[float] = []
    last_step = 0
    with Live(console=screen(), auto_refresh=False, transient=False) as live:
        for job in states(client, job_id):
            for step in _steps(client, job_id, last_step):
                losses.append(step["train_loss"])
                last_step = step["step"]
            live.update(job_progress.panel(job, losses), refresh=True)
    return job


def _steps(client: Client, job_id: str, after: int) -> list[dict[str, Any]]:
    return patiently(partial(client.whole, f"/jobs/{job_id}/steps", "step", after=after))["data"]
