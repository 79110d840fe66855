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
from tests.builders.platform import BASE_MODEL, Platform
from tests.builders.serving import SECRET, listening, serving_base
from tests.gateway.cli.conftest import CommandLine, Served, ecolink


@pytest.fixture
def settings(settings: Settings, serving_url: str) -> Settings:
    """Settings of a gateway with an engine."""
    return settings.model_copy(update={"serving_url": serving_url, "serving_secret": SECRET})


@pytest.fixture
def serving_url(tiny_model: Path) -> Iterator[str]:
    with serving_base(tiny_model, queue_limit=2) as engine, listening(engine) as url:
        yield url


def test_an_answer_is_streamed_or_one_document(served: Served, platform: Platform) -> None:
    platform.base_model()
    platform.project()
    me = served.as_person(platform.person())
    asked = ("models", "chat", BASE_MODEL, "Hello!", "--temperature", "0", "--max-tokens", "9")
    whole = me.read(*asked)
    (choice,) = whole["choices"]
    assert me.run(*asked) == tame(choice["message"]["content"]) + "\n"
    assert whole["usage"]["completion_tokens"] == 9
    piped = ecolink("--url", me.url, "--key", me.key, "models", "chat", BASE_MODEL, stdin="Hello!")
    assert piped.exit_code == 0
    _check_refusals(me)


def _check_refusals(me: CommandLine) -> None:
    me.refused("models", "chat", "none", "Hello!", code=4)
    assert "prompt" in me.refused("models", "chat", BASE_MODEL, "", code=2)
    hot = ("models", "chat", BASE_MODEL, "Hello!", "--temperature", "3")
    assert "--temperature" in me.refused(*hot, code=2)


def test_comments_and_line_separators_are_not_events() -> None:
    piece = {"choices": [{"delta": {"content": "a\u2028b\x85"}}]}
    events = [
        f": {PING}\n\n",
        f"data: {json.dumps(piece, ensure_ascii=False)}\n\n",
        "data: [DONE]\n\n",
    ]
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text="".join(events)))
    with Client(Endpoint("http://gateway", "eco_x"), transport) as client:
        assert list(client.chat({"stream": True})) == [piece]


def test_terminal_control_characters_are_removed() -> None:
    assert tame("a\x1b[31m\tb\x07\nc\r") == "a[31m\tb\nc"
