"""What the gateway makes of a serving process that answers what it should not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import httpx
import pytest

from gateway.chat.serving import BrokenOff, Serving
from gateway.http.errors import NotServing
from infrastructure.generation import GenerationAsked, TextGrown

ASKED = GenerationAsked(deployment_id=UUID(int=1), account_id=UUID(int=2), messages=[], choices=2)
BEGUN = b'{"prompt_tokens": 3}\n'
ENDED = b'{"choice": 0, "text": "a", "finish_reason": "stop", "completion_tokens": 1}\n'


class Body(httpx.AsyncByteStream):
    """What serving says, and whether the gateway has closed it."""

    def __init__(self, content: bytes) -> None:
        self.content, self.closed = content, False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.content

    async def aclose(self) -> None:
        self.closed = True


async def heard(body: Body, status: int = 200) -> list[TextGrown]:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, stream=body))
    async with httpx.AsyncClient(base_url="http://serving", transport=transport) as client:
        speech = await Serving(client).ask(ASKED)
        try:
            return [piece async for piece in speech.pieces()]
        finally:
            await speech.close()


@pytest.mark.parametrize("content", [b"", b"{}\n", b"<html>\n", b"\xff\n", ENDED])
def test_an_answer_that_does_not_begin_as_one_is_none(content: bytes) -> None:
    body = Body(content)
    with pytest.raises(NotServing, match="cannot be reached"):
        asyncio.run(heard(body))
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
def test_an_answer_that_is_not_complete_has_broken_off(content: bytes) -> None:
    body = Body(content)
    with pytest.raises(BrokenOff):
        asyncio.run(heard(body))
    assert body.closed


def test_an_answer_is_complete_when_all_choices_have_ended() -> None:
    body = Body(BEGUN + ENDED + ENDED.replace(b'"choice": 0', b'"choice": 1'))
    assert [piece.choice for piece in asyncio.run(heard(body))] == [0, 1]
    assert body.closed


def test_what_ends_a_line_of_text_ends_none_of_an_answer() -> None:
    text = "a\u2028b\u2029c\x85d\x0be\x1cf"
    said = TextGrown(choice=0, text=text).model_dump_json(exclude_none=True) + "\n"
    ended = ENDED + ENDED.replace(b'"choice": 0', b'"choice": 1')
    first, *_ = asyncio.run(heard(Body(BEGUN + said.encode() + ended)))
    assert first.text == text


@pytest.mark.parametrize("status", [204, 302, 401, 404, 413, 422, 500, 502])
def test_a_status_that_serving_never_answers_is_that_it_does_not_serve(status: int) -> None:
    body = Body(b"<html>")
    with pytest.raises(NotServing, match="failed to take the chat"):
        asyncio.run(heard(body, status))
    assert body.closed
