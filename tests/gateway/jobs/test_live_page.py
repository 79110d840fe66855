"""Live updates of a job's page: every event once, the newest view, and access control."""

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

from domain.jobs.failures import FailureClass
from gateway.app import create_app
from gateway.http.sessions import COOKIE
from gateway.jobs.pages import live_jobs
from gateway.jobs.pages.view import PARTS, JobView
from infrastructure.accounts.sessions import end_session
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.builders.platform import Platform
from tests.gateway.jobs.owners import Reader
from tests.gateway.web.signed_in import signed_in
from tests.polling import eventually

Frame = dict[str, Any]


@contextmanager
def live(
    reader: Reader, client: TestClient | None = None, **asked: object
) -> Iterator[WebSocketTestSession]:
    query = "&".join(f"{name}={value}" for name, value in asked.items())
    with (client or reader.client).websocket_connect(f"{reader.page_path}/live?{query}") as socket:
        yield socket


def frames(socket: WebSocketTestSession, enough: Callable[[list[Frame]], bool]) -> list[Frame]:
    """Receive frames until a condition is true."""
    got: list[Frame] = []
    while not enough(got):
        got.append(json.loads(socket.receive_text()))
    return got


def sequences(got: list[Frame]) -> list[int]:
    return [each for frame in got for each in frame["events"]]


def content(got: list[Frame]) -> str:
    return "".join(frame.get("content", "") for frame in got)


def sequences_of(reader: Reader) -> list[int]:
    """Return the sequences of the job's events in the log."""
    return [each["sequence"] for each in reader.read("/events?limit=1000")["data"]]


def shown(reader: Reader) -> int:
    """Return the last event that the page shows."""
    return int(reader.page().partition('data-sequence="')[2].partition('"')[0])


def curve(got: list[Frame], series: str) -> list[Any]:
    """Return the points of a series that the frames have."""
    return [each for frame in got for each in (frame.get("curve") or {series: []})[series]]


def closed(socket: WebSocketTestSession) -> int:
    """Return the code that the socket is closed with."""
    try:
        while True:
            socket.receive_text()
    except WebSocketDisconnect as ended:
        return ended.code


def test_a_page_continues_from_its_position(reader: Reader) -> None:
    reader.train()
    after = shown(reader)
    reader.evaluate()  # before it connects
    with live(reader, after=after) as socket:
        frames(socket, lambda got: len(sequences(got)) == 1)
        reader.score()
        rest = frames(socket, lambda got: 'data-note="registering"' in content(got))
    with live(reader, after=after) as socket:
        again = frames(socket, lambda got: len(sequences(got)) == 2)
    assert sequences(again) == [each for each in sequences_of(reader) if each > after]
    assert len(sequences(rest)) == 1
    assert rest[-1]["sequence"] == sequences_of(reader)[-1]


def test_every_event_is_sent_exactly_once(reader: Reader) -> None:
    with live(reader) as first, live(reader) as second:
        for segment in range(1, 6):
            reader.train(segment)
            reader.end(segment)
        wanted = sequences_of(reader)
        for socket in (first, second):
            got = frames(socket, lambda got: len(sequences(got)) >= len(wanted))
            assert sequences(got) == wanted
            assert content(got).count("data-sequence") == len(wanted)


@pytest.mark.full
def test_a_page_continues_after_a_gateway_restart(reader: Reader, settings: Settings) -> None:
    with live(reader) as socket:
        reader.train()
        before = frames(socket, lambda got: len(sequences(got)) == 5)
    reader.end()
    with TestClient(create_app(settings), cookies=reader.client.cookies) as restarted:
        with live(reader, restarted, after=before[-1]["sequence"]) as socket:
            reader.train(2)
            rest = frames(socket, lambda got: len(sequences(got)) == 5)
    assert sequences(before) + sequences(rest) == sequences_of(reader)


def test_metrics_and_log_lines_are_sent_once(reader: Reader) -> None:
    reader.train()
    reader.add_steps(1)
    reader.add_lines(1, "first <line>")
    with live(reader, step="1.1", line="1.1") as socket:
        frames(socket, bool)
        reader.add_steps(2)
        reader.add_lines(2, "second")
        got = frames(socket, lambda got: "second" in content(got) and bool(curve(got, "steps")))
    with live(reader, line="1.1") as socket:
        (again,) = frames(socket, bool)
    assert curve(got, "steps") == [[1, 2, 1.98, 2.98]]
    assert "first" not in content(got)
    assert "Step</dt><dd>2" in content(got) or "Step</dt><dd>10" in content(got)
    assert again["curve"]["steps"] == [[1, 1, 1.99, 2.99], [1, 2, 1.98, 2.98]]
    assert again["line"] == [1, 2]


def test_a_top_up_enables_resume(client: TestClient, platform: Platform) -> None:
    reader = Reader(client, platform, dollars=1)
    reader.post("pause")
    platform.spend(reader.person)
    with live(reader) as socket:
        button = 'id="resume" data-needs="train" data-opens="resume-dialog"'
        frames(socket, lambda got: f"{button} disabled" in content(got))
        platform.credit(reader.person, 10_000_000)
        wanted = ('data-opens="resume-dialog">', "$10.00")
        got = frames(socket, lambda got: all(each in content(got) for each in wanted))
    assert 'hx-target="#balance-now"' in content(got)
    assert reader.browser.csrf_token not in content(got)


@pytest.mark.parametrize("by_key", [True, False])
def test_updates_end_with_the_key_or_the_session(
    reader: Reader, platform: Platform, by_key: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_jobs, "SESSIONS_SECONDS", 0.1)
    with live(reader) as socket:
        frames(socket, bool)
        if by_key:
            platform.revoke(reader.person)
        else:
            with connect(platform.settings) as connection:
                end_session(connection, reader.client.cookies[COOKIE])
        assert closed(socket) == 4401


def test_only_the_owner_can_watch_a_job(reader: Reader, platform: Platform) -> None:
    for asked in ({"after": -1}, {"step": "x"}, {"line": "1.2.3"}):
        with live(reader, **asked) as socket:
            assert closed(socket) == 4422
    with live(reader, job_id=uuid4().hex) as socket:  # the path names the job
        assert frames(socket, bool)[0]["sequence"]
    headers = {"origin": "https://evil.example"}
    with reader.client.websocket_connect(f"{reader.page_path}/live", headers=headers) as socket:
        assert closed(socket) == 4403
    signed_in(reader.client, platform.person())
    with live(reader) as socket:
        assert closed(socket) == 4404
    reader.client.cookies.clear()
    with live(reader) as socket:
        assert closed(socket) == 4401


def test_a_page_that_is_too_old_must_reload(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_jobs, "KEPT", 3)
    reader.train()
    app: Any = reader.client.app
    newest = sequences_of(reader)[-1]
    eventually(lambda: app.state.feed.position >= newest)
    with live(reader, after=1) as socket:
        assert closed(socket) == 4422


def test_a_stopping_gateway_closes_the_socket(reader: Reader) -> None:
    with live(reader) as socket:
        frames(socket, bool)
        app: Any = reader.client.app
        reader.client.portal.call(app.state.feed.close)  # type: ignore[union-attr]
        assert closed(socket) == 1012


def test_a_failing_view_does_not_affect_other_views(
    reader: Reader, client: TestClient, platform: Platform, monkeypatch: pytest.MonkeyPatch
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
        client.cookies.clear()  # another sign-in would end that session
        other = Reader(client, platform)
        with live(other) as fine:
            other.train()
            frames(fine, lambda got: "Step</dt>" in content(got))
        broken.clear()
        got = frames(socket, lambda got: "#job-head" in content(got))
        assert "#job-progress" in content(got)


def test_checkpoints_are_read_only_after_a_change(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    get = Artifacts.get_document

    def counted(artifacts: Artifacts, ref: str) -> bytes:
        read.append(ref)
        return get(artifacts, ref)

    monkeypatch.setattr(Artifacts, "get_document", counted)
    with live(reader) as socket:
        reader.train()
        frames(socket, lambda got: 'data-checkpoint="10"' in content(got))
        once = len(read)
        reader.evaluate()
        rest = frames(socket, lambda got: 'data-note="evaluating"' in content(got))
    assert once
    assert len(read) == once
    assert "#job-checkpoints" not in content(rest)


def test_the_log_title_is_updated(reader: Reader) -> None:
    reader.train()
    with live(reader) as socket:
        frames(socket, bool)
        reader.crash(FailureClass.LOSS_DIVERGED)
        got = frames(socket, lambda got: 'data-note="failed"' in content(got))
    assert 'hx-target="#job-log-title"' in content(got)


def test_changes_of_a_deployment_are_sent(reader: Reader) -> None:
    reader.train()
    model = reader.register()
    with live(reader, after=shown(reader)) as socket:
        reader.post("deploy")
        frames(socket, lambda got: 'data-topic="DeploymentRequested"' in content(got))
        reader.serve(model)
        frames(socket, lambda got: 'data-topic="DeploymentActivated"' in content(got))


@pytest.mark.full
def test_the_evaluation_of_the_base_model_is_sent_out_of_order(reader: Reader) -> None:
    reader.train()
    with live(reader) as socket:
        for step in (30, 0, 40):
            reader.add_evaluation(step)
            got = frames(
                socket, lambda got, step=step: [1, step, 1.75] in curve(got, "evaluations")
            )
    assert curve(got, "evaluations") == [[1, 40, 1.75]]
