"""Chat completions through the real client, with a real engine and a tiny model."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fastapi.testclient import TestClient
from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionMessageFunctionToolCall

import gateway.chat.schemas
import gateway.chat.serving
from domain.core.aggregate import because
from domain.core.identity import PLATFORM_ACCOUNT_ID, deployment_id
from domain.deployments.deployment import Deployment
from gateway.app import create_app
from gateway.chat.serving import Serving
from gateway.http import streaming
from gateway.http.read_your_writes import caught_up
from infrastructure.chat.generation import GenerationRequest, PromptRead, TextDelta, ToolCall
from infrastructure.chat.json_schema import require_schema
from infrastructure.settings import Settings
from projections import DEPLOYMENTS
from services.serving.batch import Batch
from tests.builders.platform import BASE_MODEL, Person, Platform
from tests.builders.serving import SECRET, listening, serving_base
from tests.builders.tool_templates import CLOCK, WEATHER
from tests.gateway.conftest import ClientOf
from tests.gateway.models.conftest import Deployer
from tests.openai_objects import whole
from tests.polling import eventually
from tests.services.datasets.uploads import nested

HELLO: Any = [{"role": "user", "content": "Hello!"}]
GREEDY: dict[str, Any] = {"model": BASE_MODEL, "messages": HELLO, "temperature": 0}
DEEP: Any = {"type": "function", "function": {"name": "f", "parameters": nested(40)}}
MUTUAL = {
    "$ref": "#/$defs/a",
    "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
}
ENDLESS: Any = {"type": "function", "function": {"name": "f", "parameters": MUTUAL}}
GROWING = {"allOf": [{"type": "string", "pattern": f"a.{{{n}}}b"} for n in range(1, 40)]}
"""Patterns whose combination needs memory that doubles with each of them."""
LONG: Any = [{"role": "user", "content": "the fox " * 200}]

Create = Callable[..., Any]


@pytest.fixture(scope="module")
def batch(tiny_model: Path) -> Iterator[tuple[Batch, str]]:
    """The batch of an engine with the base model in memory, and the URL of its API."""
    with serving_base(tiny_model, queue_limit=2) as engine, listening(engine) as url:
        (batch,) = engine._batches.values()
        yield batch, url


@pytest.fixture
def running(batch: tuple[Batch, str]) -> Batch:
    return batch[0]


@pytest.fixture
def serving_url(batch: tuple[Batch, str]) -> str:
    return batch[1]


@pytest.fixture
def settings(settings: Settings, serving_url: str) -> Settings:
    """Settings of a gateway with an engine."""
    return settings.model_copy(update={"serving_url": serving_url, "serving_secret": SECRET})


@pytest.fixture
def person(platform: Platform, client: TestClient) -> Person:
    """A person, after the gateway has seen that the base model is deployed."""
    platform.base_model()
    person = platform.person()
    backend = client.app.state.backend  # type: ignore[attr-defined]
    assert caught_up(backend, DEPLOYMENTS, patience_seconds=60)
    return person


@pytest.fixture
def chat(person: Person, client_of: ClientOf) -> OpenAI:
    """The client of a person who can use the base model."""
    return client_of(person)


@pytest.fixture
def create(chat: OpenAI) -> Create:
    """Creates a completion, greedy by default."""
    return lambda **options: chat.chat.completions.create(**GREEDY | options)


def text_of(answer: ChatCompletion) -> str:
    return answer.choices[0].message.content or ""


def streamed(chunks: Any) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


@contextmanager
def raw_stream(chat: OpenAI, **options: Any) -> Iterator[Any]:
    create = chat.chat.completions.with_streaming_response.create
    with create(**GREEDY, stream=True, **options) as raw:
        yield raw


def test_a_chat_is_answered(create: Create) -> None:
    ignored = {"user": "ada", "store": False, "metadata": {"a": "b"}}
    neutral = {"reasoning_effort": "none", "tools": [], "logit_bias": None}
    answer = whole(create(max_tokens=12, **ignored, **neutral))
    (choice,) = answer.choices
    assert (choice.finish_reason, choice.message.role) == ("length", "assistant")
    assert choice.message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    assert answer.model == BASE_MODEL


def test_a_stream_has_the_same_text_as_a_completion(create: Create) -> None:
    expected = create(max_tokens=12, n=2)
    chunks = [whole(chunk) for chunk in create(max_completion_tokens=12, n=2, stream=True)]
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)
    for choice in expected.choices:
        own = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert own[0].delta.role == "assistant"
        assert "".join(each.delta.content or "" for each in own) == choice.message.content
        assert [each.finish_reason for each in own][-2:] == [None, "length"]


def test_a_stream_includes_usage_on_request(create: Create) -> None:
    *chunks, last = create(max_tokens=5, stream=True, stream_options={"include_usage": True})
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert whole(last).usage.completion_tokens == 5


def test_tools_are_part_of_the_prompt_unless_the_choice_is_none(create: Create) -> None:
    answer = create(max_tokens=1, tools=[CLOCK], tool_choice="none")
    assert answer.usage == create(max_tokens=1).usage
    with pytest.raises(openai.BadRequestError) as refused:
        create(max_tokens=1, tools=[CLOCK, WEATHER])  # more than the context of the tiny model
    assert refused.value.code == "context_length_exceeded"


CALLS = [ToolCall(id="call_1", name="get_weather", arguments='{"city": "Zürich"}')]


def test_tool_calls_have_the_shape_of_openai(
    create: Create, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[GenerationRequest] = []
    lines = [
        PromptRead(prompt_tokens=3),
        TextDelta(choice=0, text="Let me look."),
        TextDelta(
            choice=0, text="", finish_reason="tool_calls", completion_tokens=9, tool_calls=CALLS
        ),
    ]
    content = "".join(line.model_dump_json(exclude_none=True) + "\n" for line in lines)

    def serve(request: httpx.Request) -> httpx.Response:
        asked.append(GenerationRequest.model_validate_json(request.content))
        return httpx.Response(200, content=content)

    transport = httpx.AsyncClient(transport=httpx.MockTransport(serve))
    monkeypatch.setattr(client.app.state, "serving", Serving(transport, ["http://x"]))  # type: ignore[attr-defined]
    (choice,) = whole(create(tools=[WEATHER, CLOCK])).choices
    assert asked[0].tools == [WEATHER, CLOCK]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me look.")
    (called,) = choice.message.tool_calls or ()
    assert (called.id, called.type) == ("call_1", "function")
    assert isinstance(called, ChatCompletionMessageFunctionToolCall)
    assert (called.function.name, called.function.arguments) == (CALLS[0].name, CALLS[0].arguments)
    chunks = [each.choices[0] for each in create(tools=[WEATHER], stream=True) if each.choices]
    (delta,) = [call for each in chunks for call in each.delta.tool_calls or ()]
    assert (delta.index, delta.id, delta.type) == (0, "call_1", "function")
    assert chunks[-1].finish_reason == "tool_calls"
    conversation = [*HELLO, choice.message.model_dump(exclude_none=True)]
    create(messages=[*conversation, {"role": "tool", "tool_call_id": "call_1", "content": "rain"}])
    assert asked[-1].messages[1]["tool_calls"][0]["function"]["name"] == "get_weather"


def test_a_stream_has_pings_and_ends_with_done(
    chat: OpenAI, create: Create, running: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, step = create(max_tokens=3), running.step
    monkeypatch.setattr(streaming, "PING_SECONDS", 0.01)
    monkeypatch.setattr(running, "step", lambda: (time.sleep(0.1), step()))
    with raw_stream(chat, max_tokens=3) as raw:
        assert raw.headers["content-type"].startswith("text/event-stream")
        content = raw.read()
    ping = f": {streaming.PING}\n\n".encode()
    assert ping in content
    assert content.replace(ping, b"").endswith(b"data: [DONE]\n\n")  # a last ping may follow it
    assert streamed(create(max_tokens=3, stream=True)) == text_of(expected)


def test_stop_sequences_temperature_and_seed(create: Create) -> None:
    full = text_of(create(max_tokens=20))
    stop = full[len(full) // 2 :][:3]
    for given in (stop, ["never", stop]):
        stopped = create(max_tokens=20, stop=given)
        assert stopped.choices[0].finish_reason == "stop"
        assert text_of(stopped) == full[: full.index(stop)]
    one, same, wrapped, other = (
        text_of(create(max_tokens=20, temperature=1.5, top_p=0.9, seed=seed))
        for seed in (1, 1, 2**62 + 1, 2)
    )
    assert one == same == wrapped != other


def test_content_may_be_parts_and_roles_have_newer_names(create: Create) -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo!"}]
    asked = create(messages=[{"role": "user", "content": parts}], max_tokens=5)
    assert asked.choices == create(max_tokens=5).choices
    old, new = (
        create(messages=[{"role": role, "content": "Be kind."}, *HELLO], max_tokens=5)
        for role in ("system", "developer")
    )
    assert (old.choices, old.usage) == (new.choices, new.usage)


FORMAT, SCHEMA = "response_format", "response_format.json_schema.schema"


def schema_format(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a response format with a schema."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def test_an_invalid_parameter_is_named(create: Create, subtests: pytest.Subtests) -> None:
    for options, param in (
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages.0.content"),
        ({"messages": [{"role": "nobody", "content": "Hello!"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": LONG}, "messages"),
        ({"stop": ""}, "stop"),
        ({"temperature": 3}, "temperature"),
        ({"n": 100}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": True}, "logprobs"),
        ({"extra_body": {"top_k": 5}}, "top_k"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": schema_format({"type": "strings"})}, SCHEMA),
        ({"response_format": schema_format({"enum": ["x" * 70_000]})}, SCHEMA),
        ({"response_format": schema_format({"$schema": "file:///dev/ptmx"})}, SCHEMA),
        ({"response_format": schema_format({"items": {"$schema": "http://a/"}})}, SCHEMA),
        ({"response_format": schema_format({"$ref": "file:///dev/ptmx"})}, FORMAT),
        ({"response_format": schema_format({"minLength": 3, "type": "object", "not": {}})}, FORMAT),
        ({"response_format": schema_format({"$ref": "#"})}, SCHEMA),
        ({"response_format": schema_format(MUTUAL)}, SCHEMA),
        ({"response_format": {"type": "json_object"}, "tools": [CLOCK]}, "response_format"),
        ({"tools": [ENDLESS]}, "tools.0.function.parameters"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tools": [{"type": "retrieval"}]}, "tools.0.type"),
        ({"tools": [CLOCK, CLOCK]}, "tools.1.function.name"),
        ({"tools": [CLOCK] * 129}, "tools"),
        ({"tools": [DEEP]}, "tools.0"),
        ({"tools": [CLOCK], "tool_choice": "required"}, "tool_choice"),
    ):
        with subtests.test(str(options)[:50]):
            with pytest.raises(openai.BadRequestError) as refused:
                create(**options)
            assert refused.value.param == param
            if options.get("messages") == LONG:
                assert refused.value.code == "context_length_exceeded"


@pytest.mark.full  # On a busy machine, the compiler needs longer than the gateway waits.
def test_a_schema_whose_patterns_multiply_is_named(create: Create) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        create(response_format=schema_format(GROWING))
    assert refused.value.param == FORMAT


def test_a_schema_is_read_outside_the_event_loop(
    create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(schema: Any) -> None:
        with pytest.raises(RuntimeError):  # no event loop runs in this thread
            asyncio.get_running_loop()
        require_schema(schema)

    monkeypatch.setattr(gateway.chat.schemas, "require_schema", read)
    create(response_format=schema_format({"type": "object"}), max_tokens=1)


def test_only_deployed_models_of_the_caller_answer(
    create: Create, person: Person, platform: Platform
) -> None:
    def refused(kind: type[openai.APIStatusError], name: str = "ft:mine") -> openai.APIStatusError:
        with pytest.raises(kind) as refusal:
            create(model=name)
        return refusal.value

    def save(deployment: Deployment) -> None:
        platform.log.commit(deployment)
        platform.project()

    base = platform.log.load(Deployment, deployment_id(PLATFORM_ACCOUNT_ID, BASE_MODEL))
    with because(platform.cause):
        save(Deployment.request(platform.person().account_id, "ft:theirs", base.weights))
        for name in ("ft:theirs", "gpt-9"):
            assert refused(openai.NotFoundError, name).code == "model_not_found"
        mine = Deployment.request(person.account_id, "ft:mine", base.weights)
        save(mine)
        loading = refused(openai.InternalServerError)
        assert (loading.status_code, loading.code) == (503, "not_serving")
        mine.activate()
        save(mine)
        assert refused(openai.InternalServerError).code == "model_loading"
        mine.fail("adapter_mismatch", "it does not fit")
        save(mine)
        assert "it does not fit" in refused(openai.ConflictError).message
        mine.undeploy()
        save(mine)
        gone = refused(openai.ConflictError)
        assert gone.code == "wrong_state"
        assert gone.response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(("deploy", "code"), [(True, "not_serving"), (False, "wrong_state")])
def test_a_new_model_is_unavailable_until_serving_loads_it(
    client: TestClient, platform: Platform, client_of: ClientOf, deploy: bool, code: str
) -> None:
    owner = Deployer(client, platform, deploy=deploy)
    with pytest.raises(openai.APIStatusError) as refused:
        client_of(owner.person).chat.completions.create(**GREEDY | {"model": owner.model})
    assert refused.value.code == code


def test_a_full_queue_is_refused_with_retry_after(create: Create) -> None:
    with pytest.raises(openai.RateLimitError) as refused:
        create(n=7)
    assert refused.value.response.headers["retry-after"]
    assert refused.value.code == "rate_limit_exceeded"


def test_a_generation_stops_when_its_client_disconnects(create: Create, running: Batch) -> None:
    with create(stream=True) as stream:
        next(iter(stream))
    eventually(lambda: not running.busy)


def test_an_interrupted_generation_is_an_error(
    create: Create, running: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "step", lambda: 1 / 0)
    with pytest.raises(openai.InternalServerError) as unstreamed:
        create()
    with pytest.raises(openai.APIError) as interrupted:
        list(create(stream=True))
    assert unstreamed.value.code == interrupted.value.code == "broken_off"


@pytest.mark.full
def test_a_silent_generation_is_abandoned(
    person: Person,
    settings: Settings,
    projecting: None,
    running: Batch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(running, "step", lambda: time.sleep(0.01))
        patch.setattr(gateway.chat.serving, "SILENT_SECONDS", 2.0)
        patch.setattr(gateway.chat.serving, "ACCEPT_SECONDS", 2.0)
        with TestClient(create_app(settings)) as http:
            body = GREEDY | {"max_tokens": 9}
            answer = http.post("/v1/chat/completions", json=body, headers=person.headers)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] in ("broken_off", "not_serving")
    eventually(lambda: not running.busy)


class TestWithoutServing:
    """The serving process is not running."""

    @pytest.fixture
    def serving_url(self) -> Iterator[str]:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            yield f"http://127.0.0.1:{unused.getsockname()[1]}"

    def test_chat_is_unavailable(self, create: Create) -> None:
        with pytest.raises(openai.InternalServerError) as away:
            create()
        assert (away.value.status_code, away.value.code) == (503, "not_serving")


def test_a_tool_call_that_is_nested_too_deep_is_refused(
    client: TestClient, person: Person, subtests: pytest.Subtests
) -> None:
    for as_text, levels in product((False, True), (40, 300, 900)):
        with subtests.test(f"{levels} levels, as text: {as_text}"):
            depth = f"{'[' * levels}{']' * levels}" if as_text else nested(levels)
            call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": depth}}
            messages = [*HELLO, {"role": "assistant", "tool_calls": [call]}]
            body = {"model": BASE_MODEL, "messages": messages}
            answer = client.post("/v1/chat/completions", json=body, headers=person.headers)
            assert answer.status_code == 400, answer.text
            if answer.json()["error"]["param"] is not None:  # otherwise the parser refused it
                assert answer.json()["error"]["param"] == "messages.1.tool_calls"
