"""A job's page as it changes: every event once, the newest view, and who may look."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from domain.errors import Invalid
from domain.failures import FailureClass
from domain.job import Job
from gateway.app import create_app
from gateway.place_names import PlaceNames
from gateway.sessions import COOKIE
from gateway.web import live_jobs
from gateway.web.job_story import Entry
from gateway.web.job_view import PARTS, JobView
from gateway.web.watched_job import KEPT, KEPT_FRAMES, Seen, WatchedJob
from infrastructure.artifacts import Artifacts
from infrastructure.measurements import add_evaluation, add_log_line, add_step
from infrastructure.reports import EvaluationMeasured
from infrastructure.sessions import end_session
from infrastructure.settings import Settings
from infrastructure.store import connect
from tests.causes import NOW
from tests.gateway.conftest import World
from tests.gateway.web.signed_in import signed_in
from tests.gateway.web.test_job_page import Reader, line, measured

Frame = dict[str, Any]


@pytest.fixture
def reader(client: TestClient, world: World) -> Reader:
    return Reader(client, world)


@contextmanager
def live(
    reader: Reader, client: TestClient | None = None, **asked: object
) -> Iterator[WebSocketTestSession]:
    query = "&".join(f"{name}={value}" for name, value in asked.items())
    with (client or reader.client).websocket_connect(f"{reader.page_path}/live?{query}") as socket:
        yield socket


def frames(socket: WebSocketTestSession, enough: Callable[[list[Frame]], bool]) -> list[Frame]:
    """What comes until it is enough."""
    got: list[Frame] = []
    while not enough(got):
        got.append(json.loads(socket.receive_text()))
    return got


def sequences(got: list[Frame]) -> list[int]:
    return [each for frame in got for each in frame["events"]]


def content(got: list[Frame]) -> str:
    return "".join(frame.get("content", "") for frame in got)


def of_the_job(reader: Reader) -> list[int]:
    """Sequences of the job's events."""
    answer = reader.client.get(
        "/api/events", params={"job": reader.path.rpartition("/")[2], "limit": 1000}
    )
    return [each["sequence"] for each in answer.json()["data"]]


def shown(reader: Reader) -> int:
    """Up to which event the page shows its job."""
    reader.world.project()
    page = reader.client.get(reader.page_path).text
    return int(page.partition('data-sequence="')[2].partition('"')[0])


def test_a_page_goes_on_from_what_it_shows(reader: Reader) -> None:
    reader.train()
    after = shown(reader)
    reader.evaluate()  # before it connects
    with live(reader, after=after) as socket:
        frames(socket, lambda got: len(sequences(got)) == 1)
        reader.score()
        rest = frames(socket, lambda got: "Adapter being registered" in content(got))
    with live(reader, after=after) as socket:
        again = frames(socket, lambda got: len(sequences(got)) == 2)
    assert sequences(again) == [each for each in of_the_job(reader) if each > after]
    assert len(sequences(rest)) == 1
    assert rest[-1]["sequence"] == of_the_job(reader)[-1]


def test_no_event_is_missed_and_none_comes_twice(reader: Reader) -> None:
    with live(reader) as first, live(reader) as second:
        for segment in range(1, 6):
            reader.train(segment)
            reader.end(segment)
        wanted = of_the_job(reader)
        for socket in (first, second):
            got = frames(socket, lambda got: len(sequences(got)) >= len(wanted))
            assert sequences(got) == wanted
            assert content(got).count("data-sequence") == len(wanted)
            assert "CPU (this machine), region This machine, $" in content(got)


def test_a_gateway_that_starts_again_goes_on(reader: Reader, settings: Settings) -> None:
    with live(reader) as socket:
        reader.train()
        before = frames(socket, lambda got: len(sequences(got)) == 5)
    reader.end()
    with TestClient(create_app(settings), cookies=reader.client.cookies) as anew:
        after = before[-1]["sequence"]
        with live(reader, anew, after=after) as socket:
            reader.train(2)
            rest = frames(socket, lambda got: len(sequences(got)) == 5)
    assert sequences(before) + sequences(rest) == of_the_job(reader)


def test_what_is_measured_and_logged_comes_once(reader: Reader, settings: Settings) -> None:
    reader.train()
    with connect(settings) as connection:
        add_step(connection, measured(reader, 1))
        add_log_line(connection, line(reader, 1, "first <line>"))
        with live(reader, step="1.1", line="1.1") as socket:
            frames(socket, bool)
            add_step(connection, measured(reader, 2))
            add_log_line(connection, line(reader, 2, "second"))
            got = frames(socket, lambda got: "second" in content(got) and bool(curve(got)))
        with live(reader, line="1.1") as socket:
            (again,) = frames(socket, bool)
    assert curve(got) == [[1, 2, 1.98]]
    assert "first" not in content(got)
    assert "Step</dt><dd>2" in content(got) or "Step</dt><dd>10" in content(got)
    assert again["curve"]["steps"] == [[1, 1, 1.99], [1, 2, 1.98]]
    assert again["line"] == [1, 2]


def curve(got: list[Frame]) -> list[Any]:
    return [step for frame in got for step in (frame.get("curve") or {"steps": []})["steps"]]


def test_a_top_up_enables_resume(client: TestClient, world: World) -> None:
    reader = Reader(client, world, dollars=1)
    reader.post("pause")
    world.spend(reader.person)
    with live(reader) as socket:
        frames(
            socket, lambda got: 'id="resume" data-opens="resume-dialog" disabled' in content(got)
        )
        world.credit(reader.person, 10_000_000)
        wanted = ('data-opens="resume-dialog">', "$10.00")
        got = frames(socket, lambda got: all(each in content(got) for each in wanted))
    assert 'hx-target="#balance-now"' in content(got)
    assert reader.browser.csrf_token not in content(got)


def closed(socket: WebSocketTestSession) -> int:
    try:
        while True:
            socket.receive_text()
    except WebSocketDisconnect as ended:
        return ended.code


def test_a_revoked_key_ends_it(reader: Reader, world: World) -> None:
    with live(reader) as socket:
        frames(socket, bool)
        world.revoke(reader.person)
        assert closed(socket) == 4401


def test_signing_out_ends_it(
    reader: Reader, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_jobs, "SESSIONS_SECONDS", 0.1)
    with live(reader) as socket:
        frames(socket, bool)
        with connect(settings) as connection:
            end_session(connection, reader.client.cookies[COOKIE])
        assert closed(socket) == 4401


def test_only_its_owner_looks_at_a_job(reader: Reader, world: World) -> None:
    signed_in(reader.client, world.person())
    with live(reader) as socket:
        assert closed(socket) == 4404
    reader.client.cookies.clear()
    with live(reader) as socket:
        assert closed(socket) == 4401
    for asked in ({"after": -1}, {"step": "x"}, {"line": "1.2.3"}):
        with live(reader, **asked) as socket:
            assert closed(socket) == 4422


def test_another_site_cannot_look(reader: Reader) -> None:
    headers = {"origin": "https://evil.example"}
    with reader.client.websocket_connect(f"{reader.page_path}/live", headers=headers) as socket:
        assert closed(socket) == 4403


def test_a_page_that_is_too_old_is_told_to_load_again(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_jobs, "KEPT", 3)
    reader.train()
    with live(reader, after=1) as socket:
        assert closed(socket) == 4422


def test_a_gateway_that_ends_says_so(reader: Reader) -> None:
    with live(reader) as socket:
        frames(socket, bool)
        app: Any = reader.client.app
        reader.client.portal.call(app.state.feed.close)  # type: ignore[union-attr]
        assert closed(socket) == 1012


def watched(sequence: int) -> WatchedJob:
    return WatchedJob(uuid4(), uuid4(), PlaceNames({}, {}), sequence)


def entry(sequence: int) -> Entry:
    return Entry(sequence, NOW, Job.CheckpointSaved.TOPIC, f"saved {sequence}", "good", False)


def test_who_is_slow_gets_the_newest_view_and_every_event() -> None:
    job = watched(10)
    for sequence in range(11, 16):
        job.tell([entry(sequence)], sequence)
        job.show({"head": f"view {sequence}"})
    frame = json.loads(job.frame_since(0))
    assert frame["events"] == [11, 12, 13, 14, 15]
    assert frame["content"].count("view") == 1
    assert "view 15" in frame["content"]
    assert job.frame_since(0) is job.frame_since(0)  # made once for all who are as slow
    assert not job.show({"head": "view 15"})


def test_what_is_kept_is_bounded() -> None:
    job = watched(0)
    for sequence in range(1, 4 * KEPT):
        job.tell([entry(sequence)], sequence)
    last = 4 * KEPT - 1
    frame = json.loads(job.frame_after(Seen(job.floor, (0, 0), (0, 0), (0, 0))))
    assert frame["events"] == list(range(job.floor + 1, last + 1))
    assert KEPT <= len(frame["events"]) <= 2 * KEPT


def steps(first: int, last: int) -> dict[str, list[dict[str, Any]]]:
    return {"steps": [{"segment": 1, "step": n, "loss": 2.0} for n in range(first, last + 1)]}


def lines(first: int, last: int) -> dict[str, list[dict[str, Any]]]:
    return {
        "lines": [
            {"segment": 1, "n": n, "level": "INFO", "text": f"{n}"} for n in range(first, last + 1)
        ]
    }


def test_who_misses_more_than_was_read_asks_anew() -> None:
    """After minutes without the database, or a burst of a log, only the newest are read."""
    job = watched(0)
    job.measure(steps(1, 3) | lines(1, 3), KEPT)
    before = job.tick
    job.measure(steps(10, 9 + KEPT), KEPT)
    frame = json.loads(job.frame_since(before))
    assert frame["curve"] is None
    assert "line" not in frame
    job.measure(lines(10, 9 + KEPT), KEPT)
    assert json.loads(job.frame_since(before))["line"] is None
    now = job.tick
    job.measure(steps(10 + KEPT, 10 + KEPT), KEPT)
    assert json.loads(job.frame_since(now))["curve"]["steps"] == [[1, 10 + KEPT, 2.0]]


def test_who_was_slower_than_what_is_kept_asks_anew() -> None:
    job = watched(0)
    job.measure({}, KEPT)
    ticks: list[int] = []
    for n in range(1, 2 * KEPT + 2):
        job.measure(steps(n, n) | lines(n, n), KEPT)
        ticks.append(job.tick)
    late = json.loads(job.frame_since(ticks[KEPT - 1]))
    assert (late["curve"], late["line"]) == (None, None)
    in_time = json.loads(job.frame_since(ticks[KEPT]))
    assert [step for _, step, _ in in_time["curve"]["steps"]] == list(range(KEPT + 2, 2 * KEPT + 2))
    assert in_time["line"] == [1, 2 * KEPT + 1]


def test_who_misses_events_that_are_no_longer_kept_loads_the_page_again() -> None:
    job = watched(0)
    job.measure({name: [] for name in job.series}, KEPT)
    viewer = live_jobs.Viewer(job, uuid4(), uuid4(), Seen(0, (0, 0), (0, 0), (0, 0)))
    assert viewer.next_frame()
    for sequence in range(1, 2 * KEPT + 2):
        job.tell([entry(sequence)], sequence)
    with pytest.raises(Invalid, match="load it again"):
        viewer.next_frame()


@pytest.mark.full
def test_what_is_recalled_and_rendered_is_bounded() -> None:
    job = watched(10 * KEPT)
    first, second, third = 9 * KEPT, 8 * KEPT, 7 * KEPT
    assert job.recall([entry(n + 1) for n in range(first, 10 * KEPT)], first)
    assert job.recall([entry(n + 1) for n in range(second, first)], second)
    assert not job.recall([entry(n + 1) for n in range(third, second)], third)
    for n in range(second, second + 200):
        job.frame_after(Seen(n, (0, 0), (0, 0), (0, 0)))
    assert len(job._frames) <= KEPT_FRAMES  # pyright: ignore[reportPrivateUsage]


def test_the_path_says_which_job_it_is(reader: Reader) -> None:
    path = f"{reader.page_path}/live?job_id={uuid4().hex}"
    with reader.client.websocket_connect(path) as socket:
        (frame,) = frames(socket, bool)
    assert frame["sequence"]


def test_a_view_that_breaks_leaves_those_of_others_alone(
    reader: Reader, client: TestClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader.train()
    parts, broken = JobView.parts, [reader.job_id]

    def some_break(view: JobView, names: Sequence[str] = PARTS) -> dict[str, str]:
        if view.job.id in broken:
            raise KeyError("a sample that is no JSON")
        return parts(view, names)

    monkeypatch.setattr(JobView, "parts", some_break)
    monkeypatch.setattr(live_jobs, "RETRY_SECONDS", 0.2)
    with live(reader) as socket:
        frames(socket, lambda got: len(sequences(got)) == 5)
        other = Reader(client, world)
        with live(other) as fine:
            other.train()
            frames(fine, lambda got: "Step</dt>" in content(got))
        broken.clear()
        got = frames(socket, lambda got: "#job-head" in content(got))
        assert "#job-progress" in content(got)


def test_checkpoints_are_read_when_they_change(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    get = Artifacts.get

    def counted(artifacts: Artifacts, ref: str) -> bytes:
        read.append(ref)
        return get(artifacts, ref)

    monkeypatch.setattr(Artifacts, "get", counted)
    with live(reader) as socket:
        reader.train()
        frames(socket, lambda got: 'data-checkpoint="10"' in content(got))
        once = len(read)
        reader.evaluate()
        rest = frames(socket, lambda got: "3 minutes" in content(got))
    assert once
    assert len(read) == once
    assert "#job-checkpoints" not in content(rest)


def test_the_title_of_the_log_and_the_settings_follow(reader: Reader) -> None:
    reader.train()
    with live(reader) as socket:
        frames(socket, lambda got: "1 held out" in content(got))
        reader.crash(FailureClass.LOSS_DIVERGED)
        got = frames(socket, lambda got: "Last log lines" in content(got))
    assert 'hx-target="#job-log-title"' in content(got)


def evaluated(reader: Reader, step: int) -> EvaluationMeasured:
    return EvaluationMeasured(
        account_id=reader.person.account_id,
        job_id=reader.job_id,
        segment=1,
        step=step,
        eval_loss=1.5,
        accuracy=0.5,
        examples=1,
        label_tokens=9,
        seconds=1,
        elapsed_seconds=9,
        measured_at=NOW,
    )


def test_the_evaluation_of_the_base_comes_although_it_is_made_last(
    reader: Reader, settings: Settings
) -> None:
    reader.train()
    with connect(settings) as connection, live(reader) as socket:
        add_evaluation(connection, evaluated(reader, 30))
        frames(socket, lambda got: [1, 30, 1.5] in evaluations(got))
        add_evaluation(connection, evaluated(reader, 0))
        frames(socket, lambda got: [1, 0, 1.5] in evaluations(got))
        add_evaluation(connection, evaluated(reader, 40))
        rest = frames(socket, lambda got: [1, 40, 1.5] in evaluations(got))
    assert evaluations(rest) == [[1, 40, 1.5]]


def evaluations(got: list[Frame]) -> list[Any]:
    return [
        each for frame in got for each in (frame.get("curve") or {"evaluations": []})["evaluations"]
    ]


def test_what_was_recalled_is_news_to_who_asks_alone() -> None:
    job = watched(10)
    job.tell([entry(11)], 11)
    job.recall([entry(8), entry(9), entry(10), entry(11)], 7)
    assert json.loads(job.frame_after(Seen(8, (0, 0), (0, 0), (0, 0))))["events"] == [9, 10, 11]
    assert json.loads(job.frame_since(0))["events"] == [11]
