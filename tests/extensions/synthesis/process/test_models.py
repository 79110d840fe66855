"""Requests to external endpoints, and answers that could harm the process."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from extensions.synthesis.endpoint_rows import EndpointAccess
from extensions.synthesis.process.models import (
    ANSWER_BYTES,
    TOKEN_CHARACTERS,
    ExternalModel,
    Question,
    RefusedByModel,
    Reply,
)
from extensions.synthesis.process.parameters import Parameters

QUESTION = Question(
    messages=({"role": "user", "content": "Hello?"},),
    schema_name="chat",
    schema={"type": "object"},
    parameters=Parameters(max_tokens=9, temperature=0.9, top_p=1.0, seed=1),
)
DEFAULTS = replace(QUESTION, parameters=replace(QUESTION.parameters, temperature=1.0))
JUDGING = replace(QUESTION, parameters=replace(QUESTION.parameters, temperature=0.0, may_vary=True))


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
    longest = QUESTION.parameters.max_tokens * TOKEN_CHARACTERS
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


Refusal = Callable[[dict[str, Any]], dict[str, Any] | None]
"""The error of an endpoint for a request, or None if it answers."""


def reasoning(request: dict[str, Any]) -> dict[str, Any] | None:
    """Refuse what OpenAI's reasoning models refuse, one parameter at a time."""
    if "max_tokens" in request:
        return {"param": "max_tokens", "code": "unsupported_parameter"}
    for name in ("temperature", "top_p"):
        if name in request:
            return {"param": name, "code": "unsupported_value"}
    return None


def asked(refusal: Refusal, *questions: Question) -> list[dict[str, Any]]:
    """Ask one model all questions. Return the requests."""
    requests: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(json.loads(request.content))
        error = refusal(requests[-1])
        content = completion("Hello.") if error is None else json.dumps({"error": error}).encode()
        return httpx.Response(200 if error is None else 400, stream=httpx.ByteStream(content))

    async def ask() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            model = ExternalModel(client, EXAMPLE, "gpt-test")
            for each in questions:
                assert (await model.ask(each)).text == "Hello."

    asyncio.run(ask())
    return requests


@pytest.mark.parametrize("error", [{"param": "max_tokens"}, {"param": None}, {}], ids=repr)
def test_a_model_that_refuses_max_tokens_gets_max_completion_tokens(error: dict[str, Any]) -> None:
    first, second, third = asked(
        lambda body: error if "max_tokens" in body else None, *[QUESTION] * 2
    )
    assert (first["max_tokens"], second["max_completion_tokens"]) == (9, 9)
    assert "max_tokens" not in second
    assert second["temperature"] == 0.9
    assert third == second  # the model remembers


def test_a_reasoning_model_answers_and_judges_with_its_own_temperature() -> None:
    *_, answered, judged = asked(reasoning, DEFAULTS, JUDGING)
    assert answered.keys() == judged.keys()
    assert not answered.keys() & {"max_tokens", "temperature", "top_p"}


def test_a_temperature_that_the_model_refuses_ends_the_run() -> None:
    """The provenance names the temperature, so no answer has another one."""
    with pytest.raises(RefusedByModel) as refused:
        asked(reasoning, QUESTION)
    assert refused.value.status == 400


def test_an_error_that_names_another_field_is_final() -> None:
    requests: list[dict[str, Any]] = []

    def refuse(body: dict[str, Any]) -> dict[str, Any]:
        requests.append(body)
        return {"param": "messages"}

    with pytest.raises(RefusedByModel):
        asked(refuse, QUESTION)
    assert len(requests) == 1
