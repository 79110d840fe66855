"""The HTTP route between the gateway and serving."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import UUID

import httpx
import pytest

from deploy.local.ports import free_port
from infrastructure.chat.generation import GENERATE_PATH
from services.serving import api
from services.serving.engine import Engine
from tests.builders.serving import SECRET, listening, open_engine
from tests.polling import eventually
from tests.services.serving.answers import Answers, deployment_of


def client_of(url: str, secret: str = SECRET) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"authorization": f"Bearer {secret}"})


@pytest.fixture
def client(engine: Engine) -> Iterator[httpx.Client]:
    with listening(engine) as url, client_of(url) as client:
        yield client


def chat(**options: Any) -> dict[str, Any]:
    return {
        "deployment_id": str(deployment_of("base")),
        "account_id": str(UUID(int=1)),
        "messages": [{"role": "user", "content": "Hello!"}],
        "temperature": 0,
        **options,
    }


def test_an_answer_is_streamed_in_lines(answers: Answers, client: httpx.Client) -> None:
    answers.attach()
    expected = answers.ask("base", "Hello!", max_tokens=30).wait()
    response = client.post(GENERATE_PATH, json=chat(max_tokens=30, choices=2))
    first, *lines = [json.loads(line) for line in response.text.splitlines()]
    assert first == {"prompt_tokens": expected.handle.prompt_tokens}
    for choice in range(2):
        own = [line for line in lines if line["choice"] == choice]
        assert "".join(line["text"] for line in own) == expected.text
        assert (own[-1]["finish_reason"], own[-1]["completion_tokens"]) == ("length", 30)


def test_refusals_have_a_status_and_a_reason(answers: Answers, client: httpx.Client) -> None:
    loading = client.post(GENERATE_PATH, json=chat())
    assert (loading.status_code, loading.json()["code"]) == (503, "model_loading")
    assert loading.headers["retry-after"]
    answers.attach()
    long = [{"role": "user", "content": "the quick brown fox " * 100}]
    refused = client.post(GENERATE_PATH, json=chat(messages=long))
    assert (refused.status_code, refused.json()["field"]) == (400, "messages")


def test_a_body_is_read_only_with_the_secret_and_up_to_a_limit(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "BODY_BYTES", 1000)
    for secret, body, status in (
        ("guessed", b"{", 401),
        ("guessed", b"[" * 2000, 401),
        (SECRET, b"{", 422),
        (SECRET, b"[" * 1001, 413),
    ):
        headers = {"authorization": f"Bearer {secret}"}
        assert client.post(GENERATE_PATH, content=body, headers=headers).status_code == status


def test_a_disconnected_client_frees_the_slot(tiny_model: Path) -> None:
    with open_engine(rows=1) as engine, listening(engine) as url, client_of(url) as client:
        answers = Answers(engine, tiny_model)
        answers.attach()
        with client.stream("POST", GENERATE_PATH, json=chat(max_tokens=240)) as response:
            lines = response.iter_lines()
            next(lines)
            next(lines)
            waiting = answers.ask("base", "Thanks.", max_tokens=2)
        assert len(waiting.wait().tokens) == 2
        eventually(lambda: not answers.batch.busy)


def test_a_failed_answer_ends_with_an_error_line(
    answers: Answers, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers.attach()
    monkeypatch.setattr(answers.batch, "step", lambda: 1 / 0)
    response = client.post(GENERATE_PATH, json=chat())
    assert "failed" in json.loads(response.text.splitlines()[-1])


def test_the_end_of_the_process_ends_streams_without_an_error_in_the_log(
    answers: Answers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers.attach()
    step, may_step = answers.batch.step, Event()
    monkeypatch.setattr(answers.batch, "step", lambda: (may_step.wait(30), step()))
    app, port = api.create_app(answers.engine, SECRET), free_port(0)
    started: list[asyncio.Task[None]] = []

    async def process() -> None:
        started.append(asyncio.ensure_future(api.serve_app(app, "127.0.0.1", port)))
        await asyncio.wait(started)  # as in a service, it ends while requests are in progress

    thread = Thread(target=lambda: asyncio.run(process()))
    thread.start()
    try:
        with client_of(f"http://127.0.0.1:{port}") as client:
            eventually(lambda: _accepts(client))
            with client.stream("POST", GENERATE_PATH, json=chat(), timeout=30) as response:
                lines = response.iter_lines()
                assert "prompt_tokens" in next(lines)
                (serving,) = started
                serving.get_loop().call_soon_threadsafe(serving.cancel)
                with pytest.raises(httpx.RemoteProtocolError):
                    next(lines)
    finally:
        may_step.set()
        thread.join()
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []
    eventually(lambda: not answers.batch.busy)


def _accepts(client: httpx.Client) -> bool:
    with suppress(httpx.ConnectError):
        return client.get("/").status_code == 404
    return False


def test_an_answer_that_waits_sends_keepalive_lines_on_request(
    answers: Answers, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "KEEPALIVE_SECONDS", 0.02)
    answers.attach()
    step, may_step = answers.batch.step, Event()
    monkeypatch.setattr(answers.batch, "step", lambda: (may_step.wait(30), step()))
    body = chat(max_tokens=2, keepalive=True)
    with client.stream("POST", GENERATE_PATH, json=body, timeout=30) as response:
        lines = (json.loads(line) for line in response.iter_lines())
        assert next(lines)["keepalive_seconds"] == 0.02
        assert [next(lines) for _ in range(3)] == [{"keepalive": True}] * 3
        may_step.set()
        rest = [line for line in lines if "keepalive" not in line]
    assert rest[-1]["finish_reason"] == "length"
