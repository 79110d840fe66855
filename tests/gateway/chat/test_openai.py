"""Chat completions through the real client, with a real engine and a tiny model."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import openai
import pytest
from fastapi.testclient import TestClient
from openai import OpenAI
from openai.types.chat import ChatCompletion
from psycopg_pool import ConnectionPool

import gateway.chat.serving
from domain.core.aggregate import because
from domain.core.identity import PLATFORM_ACCOUNT_ID, deployment_id
from domain.deployments.deployment import Deployment
from gateway.app import create_app
from gateway.http import streaming
from infrastructure.settings import Settings
from infrastructure.store import Connection
from projections.deployments import statuses
from services.serving.deployed import Served
from services.serving.engine import Engine, EngineOptions
from tests.builders.platform import BASE_MODEL, Person, Platform
from tests.builders.tiny_model import make_tiny_model
from tests.gateway.conftest import ClientOf
from tests.gateway.models.test_deployments import Deployer
from tests.openai_objects import whole
from tests.polling import eventually
from tests.services.serving.listening import SECRET, listening

Refused = TypeVar("Refused", bound=openai.APIStatusError)

HELLO: Any = [{"role": "user", "content": "Hello!"}]
GREEDY: dict[str, Any] = {"model": BASE_MODEL, "messages": HELLO, "temperature": 0}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine with the base model in memory."""
    directory = make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")
    engine = Engine(EngineOptions(rows=4, queue_limit=2, precision="fp32", device="cpu", threads=1))
    engine.attach(served(directory, deployment_id(PLATFORM_ACCOUNT_ID, BASE_MODEL)))
    yield engine
    engine.close()


def served(directory: Path, id: Any) -> Served:
    return Served(id, BASE_MODEL, BASE_MODEL, "22", directory, None)


@pytest.fixture(scope="module")
def serving_url(engine: Engine) -> Iterator[str]:
    with listening(engine) as url:
        yield url


@pytest.fixture
def settings(settings: Settings, serving_url: str) -> Settings:
    """Settings of a gateway with an engine."""
    return settings.model_copy(update={"serving_url": serving_url, "serving_secret": SECRET})


@pytest.fixture
def person(platform: Platform) -> Person:
    platform.base_model()
    return platform.person()


@pytest.fixture
def chat(person: Person, client_of: ClientOf) -> OpenAI:
    """The client of a person who can use the base model."""
    return client_of(person)


def test_a_chat_is_answered(chat: OpenAI) -> None:
    ignored: dict[str, Any] = {"user": "ada", "store": False, "metadata": {"a": "b"}}
    asks_nothing: dict[str, Any] = {"reasoning_effort": "none", "tools": [], "logit_bias": None}
    answer = whole(chat.chat.completions.create(**GREEDY, max_tokens=12, **ignored, **asks_nothing))
    (choice,) = answer.choices
    assert (choice.finish_reason, choice.message.role) == ("length", "assistant")
    assert choice.message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    assert answer.model == BASE_MODEL


def test_a_stream_has_the_same_text_as_a_completion(chat: OpenAI) -> None:
    expected = chat.chat.completions.create(**GREEDY, max_tokens=12, n=2)
    chunks = [
        whole(chunk)
        for chunk in chat.chat.completions.create(
            **GREEDY, max_completion_tokens=12, n=2, stream=True
        )
    ]
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)
    for choice in expected.choices:
        own = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert own[0].delta.role == "assistant"
        assert "".join(each.delta.content or "" for each in own) == choice.message.content
        assert [each.finish_reason for each in own][-2:] == [None, "length"]


def test_a_stream_includes_usage_on_request(chat: OpenAI) -> None:
    *chunks, last = chat.chat.completions.create(
        **GREEDY, max_tokens=5, stream=True, stream_options={"include_usage": True}
    )
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert whole(last).usage is not None
    assert last.usage is not None
    assert last.usage.completion_tokens == 5


def test_a_stream_ends_with_done(chat: OpenAI) -> None:
    create = chat.chat.completions.with_streaming_response.create
    with create(**GREEDY, max_tokens=2, stream=True) as raw:
        assert raw.headers["content-type"].startswith("text/event-stream")
        assert raw.read().endswith(b"data: [DONE]\n\n")


def test_the_client_ignores_pings(
    chat: OpenAI, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = chat.chat.completions.create(**GREEDY, max_tokens=3)
    (running,) = engine._batches.values()
    step = running.step
    monkeypatch.setattr(streaming, "PING_SECONDS", 0.01)
    monkeypatch.setattr(running, "step", lambda: (time.sleep(0.1), step()))
    with chat.chat.completions.with_streaming_response.create(
        **GREEDY, max_tokens=3, stream=True
    ) as raw:
        assert f": {streaming.PING}\n\n".encode() in raw.read()
    chunks = chat.chat.completions.create(**GREEDY, max_tokens=3, stream=True)
    said = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert said == expected.choices[0].message.content


def test_stop_sequences_temperature_and_seed(chat: OpenAI) -> None:
    def text(**options: Any) -> str:
        answer = chat.chat.completions.create(**{**GREEDY, "max_tokens": 20, **options})
        return answer.choices[0].message.content or ""

    full = text()
    stop = full[len(full) // 2 :][:3]
    for given in (stop, ["never", stop]):
        stopped = chat.chat.completions.create(**GREEDY, max_tokens=20, stop=given)
        assert stopped.choices[0].finish_reason == "stop"
        assert stopped.choices[0].message.content == full[: full.index(stop)]
    warm = {"temperature": 1.5, "top_p": 0.9}
    assert text(**warm, seed=1) == text(**warm, seed=1) != text(**warm, seed=2)
    assert text(**warm, seed=2**62 + 1) == text(**warm, seed=1)


def test_content_may_be_parts_and_roles_have_newer_names(chat: OpenAI) -> None:
    def answer(messages: Any) -> ChatCompletion:
        return chat.chat.completions.create(
            model=BASE_MODEL, messages=messages, temperature=0, max_tokens=5
        )

    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo!"}]
    asked = answer([{"role": "user", "content": parts}])
    assert asked.choices == chat.chat.completions.create(**GREEDY, max_tokens=5).choices
    old = answer([{"role": "system", "content": "Be kind."}, *HELLO])
    new = answer([{"role": "developer", "content": "Be kind."}, *HELLO])
    assert (old.choices, old.usage) == (new.choices, new.usage)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"messages": []}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content",
        ),
        ({"messages": [{"role": "nobody", "content": "Hello!"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "the fox " * 200}]}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"stop": ""}, "stop"),
        ({"temperature": 3}, "temperature"),
        ({"n": 100}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": True}, "logprobs"),
        ({"extra_body": {"top_k": 5}}, "top_k"),
        ({"extra_body": {"max_token": 5}}, "max_token"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ],
)
def test_an_invalid_parameter_is_named(chat: OpenAI, options: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        chat.chat.completions.create(**{**GREEDY, **options})
    assert refused.value.param == param


def test_a_prompt_beyond_the_context_length_is_refused(chat: OpenAI) -> None:
    long: Any = [{"role": "user", "content": "the fox " * 200}]
    with pytest.raises(openai.BadRequestError) as refused:
        chat.chat.completions.create(**{**GREEDY, "messages": long})
    assert refused.value.code == "context_length_exceeded"


def test_only_deployed_models_of_the_caller_answer(
    chat: OpenAI, person: Person, platform: Platform, pool: ConnectionPool[Connection]
) -> None:
    base = platform.log.load(Deployment, deployment_id(PLATFORM_ACCOUNT_ID, BASE_MODEL))
    stranger = platform.person()

    def refused(kind: type[Refused], name: str) -> Refused:
        with pytest.raises(kind) as refusal:
            chat.chat.completions.create(**{**GREEDY, "model": name})
        return refusal.value

    def seen(deployment: Deployment) -> None:
        """Save it and wait until the gateway has it."""
        platform.log.commit(deployment)
        status, account_id = deployment.status, deployment.account_id
        with pool.connection() as connection:
            eventually(lambda: statuses(connection, account_id).get(deployment.model) == status)

    with because(platform.cause):
        seen(Deployment.request(stranger.account_id, "ft:theirs", base.weights))
        for name in ("ft:theirs", "gpt-9"):
            assert refused(openai.NotFoundError, name).code == "model_not_found"
        mine = Deployment.request(person.account_id, "ft:mine", base.weights)
        seen(mine)
        loading = refused(openai.InternalServerError, "ft:mine")
        assert (loading.status_code, loading.code) == (503, "not_serving")
        mine.activate()
        seen(mine)
        assert refused(openai.InternalServerError, "ft:mine").code == "model_loading"
        mine.fail("adapter_mismatch", "it does not fit")
        seen(mine)
        assert "it does not fit" in refused(openai.ConflictError, "ft:mine").message
        mine.undeploy()
        seen(mine)
        gone = refused(openai.ConflictError, "ft:mine")
        assert gone.code == "wrong_state"
        assert gone.response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("deploy", "kind", "code"),
    [
        (True, openai.InternalServerError, "not_serving"),
        (False, openai.ConflictError, "wrong_state"),
    ],
)
def test_a_new_model_is_unavailable_until_serving_loads_it(
    deploy: bool,
    kind: type[openai.APIStatusError],
    code: str,
    client: TestClient,
    platform: Platform,
    client_of: ClientOf,
) -> None:
    owner = Deployer(client, platform, deploy=deploy)
    with pytest.raises(kind) as refused:
        client_of(owner.person).chat.completions.create(**{**GREEDY, "model": owner.model})
    assert refused.value.code == code


def test_a_full_queue_is_refused_with_retry_after(chat: OpenAI, engine: Engine) -> None:
    with pytest.raises(openai.RateLimitError) as refused:
        chat.chat.completions.create(**GREEDY, n=7)
    assert refused.value.response.headers["retry-after"]
    assert refused.value.code == "rate_limit_exceeded"


def test_a_generation_stops_when_its_client_disconnects(chat: OpenAI, engine: Engine) -> None:
    (running,) = engine._batches.values()
    with chat.chat.completions.create(**GREEDY, stream=True) as stream:
        next(iter(stream))
    eventually(lambda: not running.busy)


def test_an_interrupted_generation_is_an_error(
    chat: OpenAI, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (running,) = engine._batches.values()
    monkeypatch.setattr(running, "step", lambda: 1 / 0)
    with pytest.raises(openai.InternalServerError) as whole_response:
        chat.chat.completions.create(**GREEDY)
    with pytest.raises(openai.APIError) as streamed:
        list(chat.chat.completions.create(**GREEDY, stream=True))
    assert whole_response.value.code == streamed.value.code == "broken_off"


def test_a_silent_generation_is_abandoned(
    person: Person,
    settings: Settings,
    projecting: None,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (running,) = engine._batches.values()
    monkeypatch.setattr(running, "step", lambda: time.sleep(0.01))
    monkeypatch.setattr(gateway.chat.serving, "SILENT_SECONDS", 2.0)  # also before it begins
    with TestClient(create_app(settings)) as http:
        chat = OpenAI(
            api_key=person.key, base_url="http://testserver/v1", http_client=http, max_retries=0
        )
        with pytest.raises(openai.InternalServerError) as abandoned:
            chat.chat.completions.create(**GREEDY)
        assert abandoned.value.code in ("broken_off", "not_serving")
    monkeypatch.undo()
    eventually(lambda: not running.busy)


class TestWithoutServing:
    """The serving process is not running."""

    @pytest.fixture
    def serving_url(self) -> Iterator[str]:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            yield f"http://127.0.0.1:{nobody.getsockname()[1]}"

    def test_chat_is_unavailable(self, chat: OpenAI) -> None:
        with pytest.raises(openai.InternalServerError) as away:
            chat.chat.completions.create(**GREEDY)
        assert (away.value.status_code, away.value.code) == (503, "not_serving")


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize("levels", [40, 300, 900])
@pytest.mark.parametrize("how", ["object", "text"])
def test_a_tool_call_that_is_nested_too_deep_is_refused(
    client: TestClient, person: Person, levels: int, how: str
) -> None:
    depth = f"{'[' * levels}{']' * levels}" if how == "text" else nested(levels)
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": depth}}
    message = {"role": "assistant", "tool_calls": [call]}
    answer = client.post(
        "/v1/chat/completions",
        json={"model": BASE_MODEL, "messages": [*HELLO, message]},
        headers=person.headers,
    )
    assert answer.status_code == 400
    if answer.json()["error"]["param"] is not None:  # otherwise the parser refused it
        assert answer.json()["error"]["param"] == "messages.1.tool_calls"
