"""The HTTP route between the gateway and serving."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest

from infrastructure.generation import GENERATE_PATH
from services.serving import api
from services.serving.engine import Engine, EngineOptions
from tests.polling import eventually
from tests.services.serving.answers import Answers
from tests.services.serving.conftest import ServedMaker, deployment_of
from tests.services.serving.listening import SECRET, client_of, listening


@pytest.fixture
def url(engine: Engine) -> Iterator[str]:
    with listening(engine) as url:
        yield url


def chat(**options: Any) -> dict[str, Any]:
    return {
        "deployment_id": str(deployment_of("base")),
        "account_id": str(UUID(int=1)),
        "messages": [{"role": "user", "content": "Hello!"}],
        "temperature": 0,
        **options,
    }


def test_an_answer_is_streamed_in_lines(
    engine: Engine, served: ServedMaker, answers: Answers, url: str
) -> None:
    engine.attach(served("base"))
    expected = answers.ask("base", "Hello!", max_tokens=30).wait()
    with client_of(url) as client:
        response = client.post(GENERATE_PATH, json=chat(max_tokens=30, choices=2))
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert expected.asked is not None
    assert lines[0] == {"prompt_tokens": expected.asked.prompt_tokens}
    for choice in range(2):
        own = [line for line in lines[1:] if line["choice"] == choice]
        assert "".join(line["text"] for line in own) == expected.text
        assert (own[-1]["finish_reason"], own[-1]["completion_tokens"]) == ("length", 30)


def test_refusals_have_a_status_and_a_reason(engine: Engine, served: ServedMaker, url: str) -> None:
    with client_of(url) as client:
        loading = client.post(GENERATE_PATH, json=chat())
        assert (loading.status_code, loading.json()["code"]) == (503, "model_loading")
        assert loading.headers["retry-after"]
        engine.attach(served("base"))
        long = [{"role": "user", "content": "the quick brown fox " * 100}]
        refused = client.post(GENERATE_PATH, json=chat(messages=long))
        assert (refused.status_code, refused.json()["field"]) == (400, "messages")
    with client_of(url, "guessed") as stranger:
        assert stranger.post(GENERATE_PATH, json=chat()).status_code == 401


def test_a_body_is_read_only_with_the_secret_and_up_to_a_limit(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "BODY_BYTES", 1000)
    for secret, body, status in (
        ("guessed", b"{", 401),
        ("guessed", b"[" * 2000, 401),
        (SECRET, b"{", 422),
        (SECRET, b"[" * 1001, 413),
    ):
        with client_of(url, secret) as client:
            assert client.post(GENERATE_PATH, content=body).status_code == status


def test_a_disconnected_client_frees_the_slot(served: ServedMaker) -> None:
    engine = Engine(EngineOptions(rows=1, precision="fp32", device="cpu"))
    try:
        engine.attach(served("base"))
        (batch,) = engine._batches.values()
        with listening(engine) as url, client_of(url) as client:
            with client.stream("POST", GENERATE_PATH, json=chat(max_tokens=240)) as response:
                lines = response.iter_lines()
                next(lines)
                next(lines)
                waiting = Answers(engine).ask("base", "Thanks.", max_tokens=2)
            assert len(waiting.wait().tokens) == 2
            eventually(lambda: not batch.busy)
    finally:
        engine.close()


def test_a_failed_answer_ends_with_an_error_line(
    engine: Engine, served: ServedMaker, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.attach(served("base"))
    (batch,) = engine._batches.values()
    monkeypatch.setattr(batch, "step", lambda: 1 / 0)
    with client_of(url) as client:
        response: httpx.Response = client.post(GENERATE_PATH, json=chat())
    assert "failed" in json.loads(response.text.splitlines()[-1])
