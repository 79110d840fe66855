"""Commands that follow a job."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from threading import Event
from typing import Any

import httpx
import pytest
from pydantic import BaseModel
from rich.cells import cell_len

from domain.jobs.failures import FailureClass
from domain.jobs.lifecycle import JobStatus
from gateway.cli import following, job_progress, launching, terminal
from gateway.cli.client import Client, Endpoint, Refused, Unreachable
from gateway.jobs.schemas import JobDetail
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.store import connect
from tests.builders.platform import Platform
from tests.gateway.cli.conftest import Owner, meanwhile, plain
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


class Number(BaseModel):
    """A document of a long list."""

    position: int


def test_a_long_list_is_read_page_by_page() -> None:
    def page(request: httpx.Request) -> httpx.Response:
        first = int(request.url.params.get("after", 0)) + 1
        data = [{"position": position} for position in (first, first + 1)]
        return httpx.Response(200, json={"data": data, "has_more": first < 5})

    with Client(Endpoint("http://gateway", "eco_x"), httpx.MockTransport(page)) as client:
        whole = client.read_all(Number, "/ledger", "position", job=None)
    assert [each.position for each in whole.model.data] == [1, 2, 3, 4, 5, 6]
    assert list(whole.document) == ["data", "has_more"]


def test_a_job_is_followed_to_its_end(me: Owner, seen: list[tuple[str, int]]) -> None:
    def run_it() -> None:
        job = me.only_job()
        eventually(lambda: ("waiting for a GPU", 0) in seen)
        job.add_steps(1, 2)
        job.train(checkpoint=None)
        eventually(lambda: ("training", 2) in seen)
        job.register()

    running = meanwhile(run_it)
    shown = me.run(*me.launch, "--watch", "--suffix", "support", "--deploy")
    running.join()
    for part in (
        "waiting for a GPU",
        "step 2/30 · train loss 1.9800 · 1,234 tokens/s",
        "ft:tiny:support:",
        "2.5000",
        "1.2500",
    ):
        assert part in shown
    assert "\x1b" not in shown
    (line,) = me.lines("jobs", "watch", me.only_job().name)
    assert line["status"] == "registered"


def test_json_lines_begin_with_the_approval(me: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Event()

    def show_line(job: dict[str, Any]) -> None:
        terminal.show_line(job)
        shown.set()

    def cancel() -> None:
        assert shown.wait(TIMEOUT_SECONDS)
        me.only_job().act(lambda job: job.cancel(timedelta(1)))

    monkeypatch.setattr(launching, "show_line", show_line)
    cancelling = meanwhile(cancel)
    lines = me.lines(*me.launch, "--watch", code=1)
    cancelling.join()
    assert {line["id"] for line in lines} == {lines[0]["id"]}
    assert (lines[0]["status"], lines[-1]["status"]) == ("training", "cancelled")


@pytest.mark.full
def test_a_pause_and_a_failure_have_different_exit_codes(me: Owner, platform: Platform) -> None:
    paused, failed = me.start(), me.start()
    me.run("jobs", "pause", paused.name)
    assert f"jobs resume {paused.name}" in me.run("jobs", "watch", paused.name, code=8)
    platform.spend(me.person)
    missing = me.read("jobs", "show", paused.name)["resume"]["missing"]["text"]
    assert missing in me.run("jobs", "watch", paused.name, code=8)
    failed.train()
    failed.crash(FailureClass.LOSS_DIVERGED)
    platform.project()
    assert f"jobs logs {failed.name}" in me.run("jobs", "watch", failed.name, code=1)


def test_ctrl_c_leaves_the_job_running_with_a_note(
    me: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(following, "breathe", interrupt)
    note = me.result(*me.launch, "--watch", code=130).stderr
    job = me.only_job()
    assert job.job.status is JobStatus.TRAINING
    assert f"ecolink jobs watch {job.name}" in note


def test_a_terminal_shows_a_panel_within_its_width(
    me: Owner, seen: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = me.start()
    job.add_steps(*range(1, 21))
    job.train(checkpoint=None)

    def end() -> None:
        eventually(lambda: ("training", 20) in seen)
        job.register()

    ending = meanwhile(end)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    shown = plain(me.run("jobs", "watch", job.name))
    ending.join()
    for part in ("step 20/30", "loss 1.8000", "█", "▁", "1,234 tokens/s", "cost $0.00", " left"):
        assert part in shown
    panel = shown[: shown.index("Registered")]
    assert all(cell_len(line) <= 80 for line in panel.splitlines())


LINES = [f"line {n} [of many]" for n in range(1, 6)]


@pytest.mark.full
def test_a_log_is_followed_line_by_line(
    me: Owner, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = me.start()
    job.train(checkpoint=None)
    job.add_lines(1, *LINES[:2])
    assert me.run("jobs", "logs", job.name, "--lines", "1").splitlines() == LINES[1:2]

    def end() -> None:
        job.add_lines(3, LINES[2])
        job.register()
        platform.project()

    between = iter([end, lambda: job.add_lines(4, LINES[3])])  # the last line is late
    monkeypatch.setattr(following, "breathe", lambda: next(between, lambda: None)())
    assert me.run("jobs", "logs", job.name, "-f").splitlines() == LINES[:4]
    assert [line["n"] for line in me.lines("jobs", "logs", job.name, "-f")] == [1, 2, 3, 4]
    topics = [line["topic"] for line in me.lines("jobs", "events", job.name, "-f")]
    assert (topics[0], topics[-1]) == ("JobApproved", "Registered")


def test_a_deleted_log_has_a_note(me: Owner, platform: Platform) -> None:
    job = me.start()
    job.train(checkpoint=None)
    job.register()
    platform.project()

    def logs(*options: str) -> tuple[str, str]:
        shown = me.result("jobs", "logs", job.name, *options)
        return shown.stdout.strip(), shown.stderr

    assert logs() == logs("-f") == ("", "")
    with connect(platform.settings) as connection:
        connection.execute("UPDATE job_detail SET changed_at = changed_at - interval '91 days'")
    assert logs() == logs("-f")
    assert " 90 days" in logs()[1]
    answer, problems = logs("--json")
    assert (json.loads(answer)["deleted_after_days"], problems) == (90, "")


@pytest.mark.full
@pytest.mark.parametrize("live", [2, 3, 5])
def test_the_stored_output_of_a_failed_job_is_followed(
    me: Owner, platform: Platform, monkeypatch: pytest.MonkeyPatch, live: int
) -> None:
    """The process printed more lines than arrived live before the failure."""
    job = me.start()
    job.train(checkpoint=None)
    job.add_lines(1, *LINES[:2])
    kept = "".join(f"INFO {text}\n" for text in LINES[1:4])
    output = f"a warning\n{kept}Fatal Python error\n"
    Artifacts(platform.settings.artifacts).put("tail.log", output.encode())

    def end() -> None:
        job.add_lines(3, *LINES[2:live])
        job.crash(FailureClass.LOSS_DIVERGED, log_ref="tail.log")
        platform.project()

    between = iter([end])
    monkeypatch.setattr(following, "breathe", lambda: next(between, lambda: None)())
    shown = me.run("jobs", "logs", job.name, "-f").splitlines()
    assert shown == [*LINES[:4], "Fatal Python error", *(LINES[4:] if live == 5 else [])]
    numbers = [line["n"] for line in me.lines("jobs", "logs", job.name, "-f") if line["n"]]
    assert numbers == list(range(1, max(4, live) + 1))


def test_a_temporary_outage_of_the_gateway_is_retried() -> None:
    passing: list[Exception] = [Unreachable("no answer"), Refused(503, {})]

    def call() -> dict[str, str]:
        if passing:
            raise passing.pop()
        return {"status": "training"}

    assert following.patiently(call) == {"status": "training"}
    with pytest.raises(Refused):
        following.patiently(lambda: (_ for _ in ()).throw(Refused(404, {})))
