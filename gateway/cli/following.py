"""Following what a job says until it rests: its states, its log and its events."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from gateway.cli.client import Client, Refused, Unreachable
from gateway.cli.exits import ExitCode
from gateway.cli.terminal import interrupted

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 60.0  # with a gateway that does not answer
MOST_LINES = 1000  # that the API gives of a log at once

ENDINGS = {
    "registered": ExitCode.DONE,
    "failed": ExitCode.FAILED,
    "cancelled": ExitCode.FAILED,
    "paused": ExitCode.PAUSED,
}
"""What following a job ends with, by the state that it came to rest in."""

Answer = dict[str, Any]


@contextmanager
def leaving_it_running(job_id: str) -> Generator[None]:
    """Ctrl-C inside ends only the following: it says so, and exits."""
    try:
        yield
    except KeyboardInterrupt:
        interrupted(
            f"\n{job_id} goes on.\n"
            f"  ecolink jobs watch {job_id}   comes back to it\n"
            f"  ecolink jobs cancel {job_id}  stops it"
        )


def patiently(call: Callable[[], Answer]) -> Answer:
    """What a call answers, repeated for a while if the gateway is away; raises ClientError."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return call()
        except (Unreachable, Refused) as error:
            passing = isinstance(error, Unreachable) or error.status >= 500
            if not passing or time.monotonic() > deadline:
                raise
        breathe()


def breathe() -> None:
    """The time between two polls."""
    time.sleep(POLL_SECONDS)


def job_states(client: Client, job_id: str) -> Generator[Answer]:
    """A job again and again, until it rests. Raises ClientError."""
    while True:
        job = patiently(lambda: client.get(f"/jobs/{job_id}"))
        yield job
        if job["status"] in ENDINGS:
            return
        breathe()


def log_lines(client: Client, job_id: str, last: int) -> Generator[Answer]:
    """A job's log from its last lines on, until the job rests. Raises ClientError."""
    seen: tuple[int, int] | None = None
    for _ in _once_more(job_states(client, job_id)):  # the last lines come after the state
        wanted = last if seen is None else MOST_LINES
        lines = patiently(lambda: client.get(f"/jobs/{job_id}/log", lines=wanted))["data"]  # noqa: B023
        new = lines[_shown(lines, seen) :]
        yield from new
        if any(line["n"] is None for line in lines):
            return  # the end of a failed job's output, which is there at once
        seen = max([seen or (0, 0), *(_place(line) for line in new)])


def _shown(lines: Sequence[Answer], seen: tuple[int, int] | None) -> int:
    """How many of the lines come no later than the last one that was seen."""
    if seen is None:
        return 0
    for count in range(len(lines), 0, -1):
        if lines[count - 1]["n"] is not None and _place(lines[count - 1]) <= seen:
            return count
    return 0


def _place(line: Answer) -> tuple[int, int]:
    return line["segment"], line["n"]


def job_events(client: Client, job_id: str) -> Generator[Answer]:
    """A job's events from the first on, until the job rests. Raises ClientError."""
    after = 0
    for _ in _once_more(job_states(client, job_id)):
        whole = partial(client.whole, f"/jobs/{job_id}/timeline", "position", after=after)
        events = patiently(whole)["data"]
        yield from events
        after = max([after, *(event["position"] for event in events)])


def _once_more(states: Generator[Answer]) -> Generator[Answer]:
    """Each state, and the last one again a while later."""
    last: Answer = {}
    for last in states:
        yield last
    breathe()
    yield last
