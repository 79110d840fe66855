"""The client of serving processes that fail, hang, or send malformed or incomplete output."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import httpx
import pytest

import gateway.chat.serving
from domain.core.errors import DomainError, Invalid
from gateway.chat.serving import (
    HUNG,
    OVERLOADED,
    STOPPING,
    UNEXPECTED,
    UNREACHABLE,
    GenerationInterrupted,
    Serving,
    urls_of,
)
from gateway.http.errors import NotServing
from infrastructure.chat.generation import GenerationRefused, GenerationRequest, TextDelta

ASKED = GenerationRequest(deployment_id=UUID(int=1), account_id=UUID(int=2), messages=[], choices=2)
BEGUN = b'{"prompt_tokens": 3}\n'
ENDED = b'{"choice": 0, "text": "a", "finish_reason": "stop", "completion_tokens": 1}\n'


class Body(httpx.AsyncByteStream):
    """Output of the serving process, and whether the gateway closed it."""

    def __init__(self, content: bytes) -> None:
        self.content, self.closed = content, False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.content

    async def aclose(self) -> None:
        self.closed = True


async def generated(body: Body, status: int = 200) -> list[TextDelta]:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, stream=body))
    async with httpx.AsyncClient(transport=transport) as client:
        generation = await Serving(client, ["http://serving"]).generate(ASKED)
        try:
            return [piece async for piece in generation.pieces()]
        finally:
            await generation.close()


@pytest.mark.parametrize("content", [b"", b"{}\n", b"<html>\n", b"\xff\n", ENDED])
def test_a_malformed_first_line_is_refused(content: bytes) -> None:
    body = Body(content)
    with pytest.raises(NotServing, match=UNREACHABLE):
        asyncio.run(generated(body))
    assert body.closed


@pytest.mark.parametrize(
    "content",
    [
        BEGUN,
        BEGUN + ENDED,
        BEGUN + ENDED + b"{}\n",
        BEGUN + ENDED + b'{"choice": 1, "te',
        BEGUN + ENDED.replace(b'"choice": 0', b'"choice": 7'),
        BEGUN + b'{"failed": "the model failed"}\n',
    ],
)
def test_an_incomplete_generation_is_interrupted(content: bytes) -> None:
    body = Body(content)
    with pytest.raises(GenerationInterrupted):
        asyncio.run(generated(body))
    assert body.closed


def test_a_generation_is_complete_when_all_choices_ended() -> None:
    body = Body(BEGUN + ENDED + ENDED.replace(b'"choice": 0', b'"choice": 1'))
    assert [piece.choice for piece in asyncio.run(generated(body))] == [0, 1]
    assert body.closed


def test_unicode_line_separators_do_not_split_lines() -> None:
    text = "a\u2028b\u2029c\x85d\x0be\x1cf"
    line = TextDelta(choice=0, text=text).model_dump_json(exclude_none=True) + "\n"
    ended = ENDED + ENDED.replace(b'"choice": 0', b'"choice": 1')
    first, *_ = asyncio.run(generated(Body(BEGUN + line.encode() + ended)))
    assert first.text == text


@pytest.mark.parametrize("status", [204, 302, 401, 404, 413, 422, 500, 502])
def test_an_unexpected_status_means_not_serving(status: int) -> None:
    body = Body(b"<html>")
    with pytest.raises(NotServing, match=UNEXPECTED):
        asyncio.run(generated(body, status))
    assert body.closed


BOTH_ENDED = ENDED + ENDED.replace(b'"choice": 0', b'"choice": 1')
BEATING = b'{"prompt_tokens": 3, "keepalive_seconds": 0.05}\n'
BEAT = b'{"keepalive": true}\n'


class Waiting(Body):
    """Output that pauses after each of its lines, and then ends or hangs."""

    def __init__(self, *lines: bytes, pause_seconds: float = 0.0, hangs: bool = True) -> None:
        super().__init__(b"")
        self._lines, self._pause_seconds, self._hangs = lines, pause_seconds, hangs

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for line in self._lines:
            yield line
            await asyncio.sleep(self._pause_seconds)
        if self._hangs:
            await asyncio.Event().wait()


def test_keepalive_lines_are_no_output_and_keep_a_generation_alive() -> None:
    beats = [BEAT] * 10  # together longer than the pause at which a process counts as hung
    body = Waiting(BEATING, *beats, BOTH_ENDED, pause_seconds=0.03, hangs=False)
    assert [piece.choice for piece in asyncio.run(generated(body))] == [0, 1]


def test_a_process_that_hangs_during_a_generation_interrupts_it() -> None:
    body = Waiting(BEATING, BEAT)
    with pytest.raises(GenerationInterrupted, match=HUNG):
        asyncio.run(generated(body))
    assert body.closed


def test_a_gateway_that_stops_interrupts_its_generations() -> None:
    async def interrupted(body: Body) -> None:
        transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=body))
        async with httpx.AsyncClient(transport=transport) as client:
            serving = Serving(client, ["http://serving"])
            generation = await serving.generate(ASKED)
            pieces = generation.pieces()
            assert (await anext(pieces)).text == "a"
            waiting = asyncio.ensure_future(anext(pieces))
            await asyncio.sleep(0)
            serving.interrupt()
            await waiting

    with pytest.raises(GenerationInterrupted, match=STOPPING):
        asyncio.run(interrupted(Waiting(BEGUN, ENDED)))


@pytest.mark.parametrize("first", [BEATING, BEGUN])
def test_a_generation_without_output_ends_although_the_process_works(
    monkeypatch: pytest.MonkeyPatch, first: bytes
) -> None:
    monkeypatch.setattr(gateway.chat.serving, "SILENT_SECONDS", 0.4)
    beats = [BEAT] * 1000 if first is BEATING else []
    body = Waiting(first, *beats, pause_seconds=0.02)
    with pytest.raises(GenerationInterrupted, match=OVERLOADED):
        asyncio.run(generated(body))
    assert body.closed


ONE, TWO = "http://one", "http://two"


class Processes:
    """Two serving processes. Each entry is a status, an error, or None for one that hangs."""

    def __init__(self, **answers: int | Exception | None) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.host)
        assert GenerationRequest.model_validate_json(request.content).keepalive
        match self.answers[request.url.host]:
            case None:
                await asyncio.Event().wait()
                raise AssertionError
            case 200:
                return httpx.Response(200, stream=Body(BEGUN + BOTH_ENDED))
            case int() as status:
                body = GenerationRefused(code="model_loading", message="It is loading.")
                return httpx.Response(status, content=body.model_dump_json())
            case error:
                raise error

    async def chats(self, count: int) -> None:
        """Send chats, one after another."""
        transport = httpx.MockTransport(self._handle)
        async with httpx.AsyncClient(transport=transport) as client:
            serving = Serving(client, [ONE, TWO])
            for _ in range(count):
                generation = await serving.generate(ASKED)
                assert len([each async for each in generation.pieces()]) == 2
                await generation.close()


@pytest.mark.parametrize("first", [httpx.ConnectError(""), httpx.ConnectTimeout(""), 503, 500])
def test_the_next_process_answers_if_the_first_cannot(first: int | Exception) -> None:
    found = Processes(one=first, two=200)
    asyncio.run(found.chats(3))
    assert found.asked == ["one", "two", "two", "two"], "later chats begin with the one that leads"


def test_the_next_process_answers_if_the_first_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.chat.serving, "ACCEPT_SECONDS", 0.05)
    found = Processes(one=None, two=200)
    asyncio.run(found.chats(2))
    assert found.asked == ["one", "two", "two"]


@pytest.mark.parametrize("answers", [{"one": 503, "two": None}, {"one": None, "two": 503}])
def test_a_refusal_says_more_than_a_process_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, answers: dict[str, int | None]
) -> None:
    monkeypatch.setattr(gateway.chat.serving, "ACCEPT_SECONDS", 0.05)
    found = Processes(**answers)
    with pytest.raises(DomainError) as refused:
        asyncio.run(found.chats(1))
    assert refused.value.code == "model_loading"
    assert found.asked == ["one", "two"]


def test_an_invalid_chat_is_not_sent_to_the_next_process() -> None:
    found = Processes(one=400, two=200)
    with pytest.raises(Invalid):
        asyncio.run(found.chats(1))
    assert found.asked == ["one"]


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        (None, [""]),
        ("http://a:1/", ["http://a:1"]),
        (" http://a:1 , http://b:1/,", ["http://a:1", "http://b:1"]),
    ],
)
def test_urls_of_serving_may_have_spaces_and_slashes(text: str | None, urls: list[str]) -> None:
    assert urls_of(text) == urls
