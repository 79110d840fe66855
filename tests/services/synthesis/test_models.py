"""Answers of external endpoints that could harm the process."""

from __future__ import annotations

import asyncio
import gzip
import json

import httpx
import pytest

from infrastructure.synthesis_endpoints import EndpointAccess
from services.synthesis.models import (
    ANSWER_BYTES,
    TOKEN_CHARACTERS,
    ExternalModel,
    Question,
    RefusedByModel,
    Reply,
)

QUESTION = Question(
    messages=({"role": "user", "content": "Hello?"},),
    schema_name="chat",
    schema={"type": "object"},
    max_tokens=9,
    temperature=0.0,
    top_p=1.0,
    seed=1,
)


def completion(text: str, finish_reason: str = "stop") -> bytes:
    choice = {"message": {"content": text}, "finish_reason": finish_reason}
    return json.dumps({"choices": [choice]}).encode()


EXAMPLE = EndpointAccess("https://example.com/v1", "")


def reply_to(
    content: bytes, headers: dict[str, str] | None = None, access: EndpointAccess = EXAMPLE
) -> Reply:
    """Return the reply of an endpoint that sends this body."""

    async def ask() -> Reply:
        transport = httpx.MockTransport(
            lambda _: httpx.Response(200, headers=headers, stream=httpx.ByteStream(content))
        )
        async with httpx.AsyncClient(transport=transport) as client:
            return await ExternalModel(client, access, "gpt-test").ask(QUESTION)

    return asyncio.run(ask())


def test_a_compressed_answer_is_not_decompressed() -> None:
    compressed = gzip.compress(completion("Hello."))
    assert reply_to(completion("Hello.")).text == "Hello."
    assert reply_to(compressed, {"content-encoding": "gzip"}).text == ""


def test_an_answer_can_be_stored_even_if_it_is_no_unicode() -> None:
    reply = reply_to(completion("\ud800", "\udfff"))
    assert (reply.text, reply.finish_reason) == ("?", "?")


def test_a_long_answer_is_cut() -> None:
    longest = QUESTION.max_tokens * TOKEN_CHARACTERS
    assert reply_to(completion("a" * longest)).text == "a" * longest
    assert reply_to(completion("😀" * (longest + 1))).text == "😀" * longest


def test_an_answer_of_many_bytes_is_not_read() -> None:
    assert reply_to(completion("Hello.", "x" * ANSWER_BYTES)).text == ""


@pytest.mark.parametrize(
    ("url", "key"),
    [("https://[v1.abc]/v1", ""), ("https://example.com/v1", "sk-\u00e9")],
    ids=["url", "key"],
)
def test_a_stored_url_or_key_that_cannot_be_sent_is_a_refusal(url: str, key: str) -> None:
    with pytest.raises(RefusedByModel):
        reply_to(b"", access=EndpointAccess(url, key))
