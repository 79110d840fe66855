"""The client of a serving process that sends malformed or incomplete output."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import httpx
import pytest

from gateway.chat.serving import UNEXPECTED, UNREACHABLE, GenerationInterrupted, Serving
from gateway.http.errors import NotServing
from infrastructure.generation import GenerationRequest, TextDelta

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
    async with httpx.AsyncClient(base_url="http://serving", transport=transport) as client:
        generation = await Serving(client).generate(ASKED)
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
