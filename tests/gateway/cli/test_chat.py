"""`ecolink models chat` with a real engine and a tiny model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.cli.client import Client, Endpoint
from gateway.cli.tables import tame
from gateway.http.streaming import PING
from infrastructure.settings import Settings
from tests.builders.platform import BASE_MODEL
from tests.builders.serving import SECRET, listening, serving_base
from tests.gateway.cli.conftest import Owner


@pytest.fixture
def settings(settings: Settings, serving_url: str) -> Settings:
    """Settings of a gateway with an engine."""
    return settings.model_copy(update={"serving_url": serving_url, "serving_secret": SECRET})


@pytest.fixture
def serving_url(tiny_model: Path) -> Iterator[str]:
    with serving_base(tiny_model, queue_limit=2) as engine, listening(engine) as url:
        yield url


@pytest.mark.full
def test_an_answer_is_streamed_or_one_document(me: Owner) -> None:
    chat = ("models", "chat", BASE_MODEL)
    asked = (*chat, "Hello!", "--temperature", "0", "--max-tokens", "9")
    whole = me.read(*asked)
    (choice,) = whole["choices"]
    assert me.run(*asked) == tame(choice["message"]["content"]) + "\n"
    assert whole["usage"]["completion_tokens"] == 9
    me.result(*chat, stdin="Hello!")
    me.refused("models", "chat", "none", "Hello!", code=4)
    assert "prompt" in me.refused(*chat, "", code=2)
    assert "--temperature" in me.refused(*chat, "Hello!", "--temperature", "3", code=2)


def test_comments_and_line_separators_are_not_events() -> None:
    piece = {"choices": [{"delta": {"content": "a\u2028b\x85"}}]}
    events = [
        f": {PING}\n\n",
        f"data: {json.dumps(piece, ensure_ascii=False)}\n\n",
        "data: [DONE]\n\n",
    ]
    headers = {"content-type": "text/event-stream; charset=utf-8"}
    answer = httpx.Response(200, headers=headers, text="".join(events))
    transport = httpx.MockTransport(lambda _: answer)
    with Client(Endpoint("http://gateway", "eco_x"), transport) as client:
        assert list(client.chat({"stream": True})) == [piece]


def test_terminal_control_characters_are_removed() -> None:
    assert tame("a\x1b[31m\tb\x07\nc\r") == "a[31m\tb\nc"
