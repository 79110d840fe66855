"""Follow the states, the log or the events of a job until it ends or pauses."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from rich.live import Live

from domain.jobs.lifecycle import JobStatus
from gateway.cli import job_progress
from gateway.cli.client import Client, Refused, Reply, Unreachable, each_of
from gateway.cli.exits import ExitCode
from gateway.cli.terminal import for_programs, interrupted, screen, show_line
from gateway.jobs.schemas import JobDetail, JobLog, LogLine, Step, TimelineEntry

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 60.0  # timeout for a gateway that does not respond
MOST_LINES = 1000  # log lines per API call
LINE_SECONDS = 5.0  # interval of lines that differ only in the step
SETTLING_SECONDS = 10.0  # maximum wait for the bill of the last minute
SETTLING_POLL_SECONDS = 0.25

ENDINGS = {
    JobStatus.REGISTERED: ExitCode.DONE,
    JobStatus.FAILED: ExitCode.FAILED,
    JobStatus.CANCELLED: ExitCode.FAILED,
    JobStatus.PAUSED: ExitCode.PAUSED,
}
"""Exit codes by the state in which a job ends or pauses."""

T = TypeVar("T")
Job = Reply[JobDetail]


@contextmanager
def leaving_it_running(job_id: str) -> Generator[None]:
    """On Ctrl-C, print that the job continues, and exit."""
    try:
        yield
    except KeyboardInterrupt:
        interrupted(
            f"\n{job_id} continues.\n"
            f"  ecolink jobs watch {job_id}   follows it again\n"
            f"  ecolink jobs cancel {job_id}  stops it"
        )


def patiently(call: Callable[[], T]) -> T:
    """Return the result of a call. If the gateway is unavailable, retry for a while."""
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
    """Sleep until the next poll."""
    time.sleep(POLL_SECONDS)


def followed(
    answer: Reply[T],
    runs: Callable[[T], bool],
    read: Callable[[], Reply[T]],
    continues: str,
    progress: Callable[[T], object] = id,
) -> Reply[T]:
    """Poll until an answer no longer runs. Return the last one. Ctrl-C prints `continues`."""
    try:
        progress(answer.model)
        while runs(answer.model):
            breathe()
            answer = patiently(read)
            progress(answer.model)
    except KeyboardInterrupt:
        interrupted(continues)
    return answer


def job_states(client: Client, job_id: str) -> Generator[Job]:
    """Poll a job until it ends or pauses. Raise ClientError on failure."""
    while True:
        yield (job := _job(client, job_id))
        if job.model.status in ENDINGS:
            return
        breathe()


def _job(client: Client, job_id: str) -> Job:
    return patiently(partial(client.read, JobDetail, f"/jobs/{job_id}"))


def log_lines(client: Client, job_id: str, last: int) -> Generator[Reply[LogLine]]:
    """Yield the last lines of a job's log, then new ones until it ends, or raise ClientError."""
    seen: tuple[int, int] | None = None
    for _ in _with_repeat(job_states(client, job_id)):
        wanted = last if seen is None else MOST_LINES
        read = partial(client.read, JobLog, f"/jobs/{job_id}/log", lines=wanted)
        lines = each_of(patiently(read))
        new = lines[_count_seen(lines, seen) :]
        yield from new
        if any(line.model.n is None for line in lines):
            return  # the stored output of a failed job, which does not grow
        seen = max([seen or (0, 0), *(_place(line) for line in new)])


def _count_seen(lines: Sequence[Reply[LogLine]], seen: tuple[int, int] | None) -> int:
    if seen is None:
        return 0
    for count in range(len(lines), 0, -1):
        if lines[count - 1].model.n is not None and _place(lines[count - 1]) <= seen:
            return count
    return 0


def _place(line: Reply[LogLine]) -> tuple[int, int]:
    return line.model.segment or 0, line.model.n or 0


def job_events(client: Client, job_id: str) -> Generator[Reply[TimelineEntry]]:
    """Yield all events of a job until it ends. Raise ClientError on failure."""
    after = 0
    for _ in _with_repeat(job_states(client, job_id)):
        for event in _events(client, job_id, after):
            yield event
            after = event.model.position


def _events(client: Client, job_id: str, after: int) -> list[Reply[TimelineEntry]]:
    path = f"/jobs/{job_id}/timeline"
    return each_of(
        patiently(partial(client.read_all, TimelineEntry, path, "position", after=after))
    )


def _with_repeat(states: Iterable[Job]) -> Generator[None]:
    """Yield after each state, and again after the last, whose lines and events may be late."""
    for _ in states:
        yield
    breathe()
    yield


def follow(client: Client, job_id: str) -> ExitCode:
    """Show a job until it ends or pauses. Return the exit code, or raise ClientError."""
    console = screen()
    with leaving_it_running(job_id):
        if for_programs.get():
            job = _json_lines(states(client, job_id))
        elif console.is_terminal:
            job = _live(client, job_id)
        else:
            job = _lines(states(client, job_id))
    if not for_programs.get():
        console.print(job_progress.outcome(job))
    return ENDINGS[job.status]


def states(client: Client, job_id: str) -> Generator[Job]:
    """Poll a job until it ends or pauses and its bill is complete. Raise ClientError on failure."""
    job: Job | None = None
    for job in job_states(client, job_id):
        yield job
    assert job is not None
    deadline = time.monotonic() + SETTLING_SECONDS
    bill = _Bill(client, job_id)
    while not bill.is_complete(job.model) and time.monotonic() < deadline:
        time.sleep(SETTLING_POLL_SECONDS)
        job = _job(client, job_id)
    yield job


class _Bill:
    """Sum of a job's closed meters. Each check reads only the events since the last check."""

    def __init__(self, client: Client, job_id: str) -> None:
        self._client = client
        self._job_id = job_id
        self._after = 0
        self._closed: list[object] = []

    def is_complete(self, job: JobDetail) -> bool:
        """Return True if the meter of every segment is closed and the job's cost includes it."""
        for event in _events(self._client, self._job_id, self._after):
            self._after = event.model.position
            if event.model.topic == "MeterClosed":
                self._closed.append(event.model.fields["billed_seconds"])
        billed = sum(each for each in self._closed if isinstance(each, int))
        return len(self._closed) == job.segment and billed == job.billed_seconds


def _json_lines(following: Iterable[Job]) -> JobDetail:
    shown: Job | None = None
    for job in following:
        if shown is None or job.document != shown.document:
            show_line(job.document)
        shown = job
    assert shown is not None
    return shown.model


def _lines(following: Iterable[Job]) -> JobDetail:
    """Print a line for every new state or evaluation, otherwise one every few seconds."""
    shown: tuple[object, ...] = ()
    line, at = "", 0.0
    job: JobDetail | None = None
    for job in (each.model for each in following):
        news = (job.status, job.phase, job.segment, job.checkpoint_step, job.eval_step)
        due = time.monotonic() - at >= LINE_SECONDS or job.status in ENDINGS
        if news != shown or (due and job_progress.line(job) != line):
            line = job_progress.line(job)
            print(line, flush=True)
            shown, at = news, time.monotonic()
    assert job is not None
    return job


def _live(client: Client, job_id: str) -> JobDetail:
    """Update a panel until the job ends or pauses. The last panel stays on the screen."""
    losses: list[float] = []
    last_step = 0
    job: JobDetail | None = None
    with Live(console=screen(), auto_refresh=False, transient=False) as live:
        for job in (each.model for each in states(client, job_id)):
            path = f"/jobs/{job_id}/steps"
            read = partial(client.read_all, Step, path, "step", after=last_step)
            for step in patiently(read).model.data:
                losses.append(step.train_loss)
                last_step = step.step
            live.update(job_progress.panel(job, losses), refresh=True)
    assert job is not None
    return job
