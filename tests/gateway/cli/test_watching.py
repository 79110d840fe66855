"""Commands that follow a job."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Event, Thread
from typing import Any
from uuid import UUID

import httpx
import pytest
from rich.cells import cell_len

from domain.core.aggregate import because
from domain.jobs.failures import FailureClass
from domain.jobs.job import Job, SegmentEnd
from gateway.cli import following, job_progress, launching, terminal
from gateway.cli.client import Client, Endpoint, Refused, Unreachable
from gateway.jobs.schemas import JobDetail
from infrastructure.artifacts import Artifacts
from infrastructure.measurements import add_log_line, add_step
from infrastructure.reports import LogLine, StepMeasured
from infrastructure.store import connect
from tests.builders.examples import ending, evaluation_result
from tests.builders.platform import BASE_MODEL, Person, Platform
from tests.gateway.cli.conftest import CommandLine, Served, ecolink, plain
from tests.polling import TIMEOUT_SECONDS, eventually


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(following, "SETTLING_SECONDS", 0.0)
    monkeypatch.setattr(following, "LINE_SECONDS", 0.0)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Return the phase and step of each state that a command has shown."""
    seen: list[tuple[str, int]] = []

    def noting(draw: Callable[..., Any]) -> Callable[..., Any]:
        def drawn(job: JobDetail, *more: Any) -> Any:
            seen.append((job.phase, job.step))
            return draw(job, *more)

        return drawn

    for name in ("line", "panel"):
        monkeypatch.setattr(job_progress, name, noting(getattr(job_progress, name)))
    return seen


@pytest.fixture
def person(platform: Platform) -> Person:
    return platform.person(dollars=10)


@pytest.fixture
def me(served: Served, person: Person) -> CommandLine:
    return served.as_person(person)


@pytest.fixture
def launch(platform: Platform, person: Person, me: CommandLine) -> tuple[str, ...]:
    """Return the arguments that launch a job."""
    platform.base_model()
    dataset = str(platform.dataset(person))
    return ("jobs", "launch", "--dataset", dataset, "--base-model", BASE_MODEL)


def test_a_long_list_is_read_page_by_page() -> None:
    def page(request: httpx.Request) -> httpx.Response:
        first = int(request.url.params.get("after", 0)) + 1
        data = [{"position": position} for position in (first, first + 1)]
        return httpx.Response(200, json={"data": data, "has_more": first < 5})

    with Client(Endpoint("http://gateway", "eco_x"), httpx.MockTransport(page)) as client:
        whole = client.whole("/ledger", "position", job=None)
    assert [each["position"] for each in whole["data"]] == [1, 2, 3, 4, 5, 6]
    assert list(whole) == ["data", "has_more"]


def act(platform: Platform, name: str, *steps: Callable[[Job], None]) -> None:
    """Commands on a job. Each is committed and projected."""
    for step in steps:
        with because(platform.cause):
            job = platform.log.load(Job, UUID(name.removeprefix("ftjob-")))
            step(job)
            platform.log.commit(job)
    platform.project()


def train(platform: Platform, person: Person, name: str, *losses: float) -> None:
    """Train some of the 30 steps in the first segment."""
    now = datetime.now(UTC)
    with connect(platform.settings) as connection:
        for n, loss in enumerate(losses, start=1):
            step = StepMeasured(
                account_id=person.account_id,
                job_id=UUID(name.removeprefix("ftjob-")),
                segment=1,
                step=n,
                total_steps=30,
                train_loss=loss,
                smoothed_loss=loss,
                learning_rate=1e-4,
                tokens=100,
                tokens_per_second=1234.0,
                elapsed_seconds=2.0 * n,
                peak_memory_bytes=1000,
                measured_at=now,
            )
            add_step(connection, step)
    act(
        platform,
        name,
        lambda job: job.allocate_segment(1),
        lambda job: job.start_pod(1, "pod", now),
        lambda job: job.start_training(1, 0, 30, 9, 1),
    )


def register(job: Job) -> None:
    job.start_evaluation(1, 30)
    job.complete_evaluation(1, evaluation_result(2.5, 1.5, 1, 10))
    job.register(1, "adapter", "a" * 64)


def only_job(me: CommandLine) -> str:
    """Return the only job of the account, once it exists."""
    with Client(Endpoint(me.url, me.key)) as client:
        eventually(lambda: client.get("/jobs")["data"] != [])
        (job,) = client.get("/jobs")["data"]
    return job["id"]


def meanwhile(act_now: Callable[[], None]) -> Thread:
    """Run a function while a command follows the job."""
    thread = Thread(target=act_now)
    thread.start()
    return thread


def test_a_job_is_followed_to_its_end(
    me: CommandLine,
    platform: Platform,
    person: Person,
    launch: tuple[str, ...],
    seen: list[tuple[str, int]],
) -> None:
    def run_it() -> None:
        job = only_job(me)
        eventually(lambda: ("waiting for a GPU", 0) in seen)
        train(platform, person, job, 3.0, 2.0)
        eventually(lambda: ("training", 2) in seen)
        act(platform, job, register)

    running = meanwhile(run_it)
    told = me.run(*launch, "--watch", "--suffix", "support", "--deploy")
    running.join()
    assert "waiting for a GPU" in told
    assert "step 2/30 · train loss 2.0000 · 1,234 tokens/s" in told
    assert "ft:tiny:support:" in told
    assert "2.5000" in told
    assert "1.5000" in told
    assert "\x1b" not in told

    (job,) = me.read("jobs", "list")["data"]
    (line,) = me.lines("jobs", "watch", job["id"])
    assert line["status"] == "registered"


def test_json_lines_begin_with_the_approval(
    me: CommandLine, platform: Platform, launch: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Event()

    def show_line(job: dict[str, Any]) -> None:
        terminal.show_line(job)
        said.set()

    def cancel() -> None:
        assert said.wait(TIMEOUT_SECONDS)
        act(platform, only_job(me), lambda job: job.cancel(timedelta(1)))

    monkeypatch.setattr(launching, "show_line", show_line)
    cancelling = meanwhile(cancel)
    lines = me.lines(*launch, "--watch", code=1)
    cancelling.join()
    assert {line["id"] for line in lines} == {lines[0]["id"]}
    assert (lines[0]["status"], lines[-1]["status"]) == ("training", "cancelled")


def test_a_pause_and_a_failure_have_different_exit_codes(
    me: CommandLine, platform: Platform, person: Person, launch: tuple[str, ...]
) -> None:
    paused, failed = me.read(*launch)["id"], me.read(*launch)["id"]
    me.run("jobs", "pause", paused)
    told = me.run("jobs", "watch", paused, code=8)
    assert f"ecolink jobs resume {paused}" in told
    platform.spend(person)
    assert me.read("jobs", "show", paused)["resume"]["missing"]["text"] in me.run(
        "jobs", "watch", paused, code=8
    )
    assert "paused" in me.run("jobs", "show", paused)

    train(platform, person, failed, 3.0)
    act(
        platform,
        failed,
        lambda job: job.end_segment(
            1,
            ending(
                SegmentEnd.CRASHED,
                5,
                failure=FailureClass.OUT_OF_MEMORY,
                error_class="MemoryError",
            ),
        ),
    )
    told = me.run("jobs", "watch", failed, code=1)
    assert f"ecolink jobs logs {failed}" in told


def test_ctrl_c_leaves_the_job_running_with_a_note(
    me: CommandLine, launch: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(following, "breathe", interrupt)
    result = ecolink("--url", me.url, "--key", me.key, *launch, "--watch")
    assert result.exit_code == 130
    (job,) = me.read("jobs", "list")["data"]
    assert job["status"] == "training"
    assert f"ecolink jobs watch {job['id']}" in result.stderr


def test_a_terminal_shows_a_panel_within_its_width(
    me: CommandLine,
    platform: Platform,
    person: Person,
    launch: tuple[str, ...],
    seen: list[tuple[str, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = me.read(*launch)["id"]
    train(platform, person, job, *(3.0 - n / 10 for n in range(20)))

    def end() -> None:
        eventually(lambda: ("training", 20) in seen)
        act(platform, job, register)

    ending = meanwhile(end)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    shown = plain(me.run("jobs", "watch", job))
    ending.join()
    for part in ("step 20/30", "loss 1.1000", "█", "▁", "1,234 tokens/s", "cost $0.00", " left"):
        assert part in shown
    panel = shown[: shown.index("Registered")]
    assert all(cell_len(line) <= 80 for line in panel.splitlines())


def tell(platform: Platform, person: Person, name: str, *numbers: int) -> None:
    """Log lines with these numbers in the first segment."""
    with connect(platform.settings) as connection:
        for n in numbers:
            line = LogLine(
                account_id=person.account_id,
                job_id=UUID(name.removeprefix("ftjob-")),
                segment=1,
                n=n,
                level="INFO",
                text=f"line {n} [of many]",
                logged_at=datetime.now(UTC),
            )
            add_log_line(connection, line)


def test_a_log_is_followed_line_by_line(
    me: CommandLine,
    platform: Platform,
    person: Person,
    launch: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = me.read(*launch)["id"]
    train(platform, person, job, 3.0)

    log = partial(tell, platform, person, job)
    log(1, 2)
    assert me.run("jobs", "logs", job, "--lines", "1").splitlines() == ["line 2 [of many]"]

    def end() -> None:
        log(3)
        act(platform, job, register)

    between = iter([end, partial(log, 4)])  # the last line arrives after the state
    monkeypatch.setattr(following, "breathe", lambda: next(between, lambda: None)())
    assert me.run("jobs", "logs", job, "-f").splitlines() == [
        f"line {n} [of many]" for n in (1, 2, 3, 4)
    ]
    assert [line["n"] for line in me.lines("jobs", "logs", job, "-f")] == [1, 2, 3, 4]
    topics = [line["topic"] for line in me.lines("jobs", "events", job, "-f")]
    assert (topics[0], topics[-1]) == ("JobApproved", "Registered")


def test_a_deleted_log_is_reported(
    me: CommandLine, platform: Platform, person: Person, launch: tuple[str, ...]
) -> None:
    job = me.read(*launch)["id"]
    train(platform, person, job, 3.0)
    act(platform, job, register)

    def logs(*options: str) -> tuple[str, str]:
        told = ecolink("--url", me.url, "--key", me.key, "jobs", "logs", job, *options)
        assert told.exit_code == 0
        return told.stdout.strip(), told.stderr

    assert logs() == logs("-f") == ("", "")
    with connect(platform.settings) as connection:
        connection.execute("UPDATE job_detail SET changed_at = changed_at - interval '91 days'")
    assert logs() == logs("-f")
    assert " 90 days" in logs()[1]
    answer, problems = logs("--json")
    assert (json.loads(answer)["deleted_after_days"], problems) == (90, "")


@pytest.mark.parametrize("live", [2, 3, 5])
def test_the_last_lines_of_a_failed_job_are_followed_too(
    me: CommandLine,
    platform: Platform,
    person: Person,
    launch: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    live: int,
) -> None:
    """The process printed more lines than arrived live before the failure."""
    job = me.read(*launch)["id"]
    train(platform, person, job, 3.0)
    tell(platform, person, job, 1, 2)
    logged = [f"line {n} [of many]" for n in range(1, 6)]
    kept = "".join(f"INFO {text}\n" for text in logged[1:4])
    Artifacts(platform.settings.artifacts).put(
        "tail.log", f"a warning\n{kept}Fatal Python error\n".encode()
    )

    def end() -> None:
        tell(platform, person, job, *range(3, live + 1))
        failure = FailureClass.OUT_OF_MEMORY
        crash = ending(SegmentEnd.CRASHED, 5, failure=failure, log_ref="tail.log")
        act(platform, job, lambda job: job.end_segment(1, crash))

    between = iter([end])
    monkeypatch.setattr(following, "breathe", lambda: next(between, lambda: None)())
    shown = me.run("jobs", "logs", job, "-f").splitlines()
    assert shown == [*logged[:4], "Fatal Python error", *(logged[4:] if live == 5 else [])]
    assert [line["n"] for line in me.lines("jobs", "logs", job, "-f") if line["n"]] == list(
        range(1, max(4, live) + 1)
    )


def test_a_gateway_that_is_away_for_a_moment_is_waited_for() -> None:
    passing: list[Exception] = [Unreachable("no answer"), Refused(503, {})]

    def call() -> dict[str, str]:
        if passing:
            raise passing.pop()
        return {"status": "training"}

    assert following.patiently(call) == {"status": "training"}
    with pytest.raises(Refused):
        following.patiently(lambda: (_ for _ in ()).throw(Refused(404, {})))
