"""The models that write and judge examples: deployed ones, and external endpoints."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Protocol
from uuid import UUID

import httpx
from pydantic import TypeAdapter, ValidationError

from domain.billing.token_rates import TokenUsage
from domain.core.errors import Invalid
from domain.core.target import TargetPolicy
from extensions.synthesis.domain.demonstrations import Message
from extensions.synthesis.endpoint_rows import EndpointAccess
from extensions.synthesis.process.parameters import Parameters, refused_parameter
from infrastructure.chat.generation import (
    GENERATE_PATH,
    GenerationFailed,
    GenerationRequest,
    KeepAlive,
    PromptRead,
    TextDelta,
)
from infrastructure.http.guarded import GuardedTransport, Refused, Resolve
from infrastructure.http.ndjson import lines_as_they_come
from infrastructure.http.retry_after import requested_delay
from infrastructure.process.code_version import package_version
from infrastructure.settings import Settings

ANSWER_SECONDS = 300.0
"""Most seconds of one answer, including the wait in the queue of the model."""

CONNECT_SECONDS = 5.0
ANSWER_BYTES = 256 * 1024
"""Most bytes of an external answer. EcoLink reads no more."""

TOKEN_CHARACTERS = 16
"""Characters of a token that the longest external text assumes. On average, a token has four."""

MOST_REASON = 100
"""Most characters of the reason why an external answer ends."""

PASSING = (
    *(HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_EARLY),
    HTTPStatus.TOO_MANY_REQUESTS,
)
"""Statuses below 500 after which a request may succeed later."""


@dataclass(frozen=True)
class Question:
    """A prompt, the schema of its answer, and the sampling parameters."""

    messages: Sequence[Message]
    schema_name: str
    schema: dict[str, Any]
    parameters: Parameters


@dataclass(frozen=True)
class Reply:
    """The text of an answer, with its tokens."""

    text: str
    finish_reason: str | None
    usage: TokenUsage


class Unavailable(Exception):
    """A model did not answer. A request after `retry_seconds`, if set, may succeed."""

    def __init__(
        self, message: str, status: int | None = None, retry_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.retry_seconds = status, retry_seconds


class RefusedByModel(Exception):
    """A model refuses the request for good, maybe because of a `parameter`."""

    def __init__(
        self, message: str, status: int | None = None, parameter: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.parameter = status, parameter


class ChatModel(Protocol):
    """A model that answers questions."""

    async def ask(self, question: Question) -> Reply:
        """Return the answer to a question. Raise Unavailable or RefusedByModel."""
        ...


LINE = TypeAdapter(PromptRead | TextDelta | GenerationFailed | KeepAlive)


@dataclass(frozen=True)
class DeployedModel:
    """A deployed model. The serving process enforces the schema with a grammar."""

    client: httpx.AsyncClient
    urls: tuple[str, ...]
    deployment_id: UUID
    account_id: UUID
    seconds: float = ANSWER_SECONDS

    async def ask(self, question: Question) -> Reply:
        """Return the answer to a question. Raise Unavailable or RefusedByModel."""
        parameters = question.parameters
        asked = GenerationRequest(
            deployment_id=self.deployment_id,
            account_id=self.account_id,
            messages=[dict(each) for each in question.messages],
            max_tokens=parameters.max_tokens,
            temperature=parameters.temperature,
            top_p=parameters.top_p,
            seed=parameters.seed,
            response_schema=question.schema,
            keepalive=True,
        )
        content = asked.model_dump_json()
        problem: Unavailable | None = None
        for url in self.urls:
            try:
                async with asyncio.timeout(self.seconds):
                    return await self._answer(url, content)
            except Unavailable as error:
                problem = error if problem is None or problem.status is None else problem
            except TimeoutError:
                raise Unavailable(f"No answer within {self.seconds:.0f} seconds.") from None
            except (httpx.HTTPError, ValidationError) as error:
                problem = problem or Unavailable(f"The serving process failed: {error}.")
        raise problem or Unavailable("No serving process is configured.")

    async def _answer(self, url: str, content: str) -> Reply:
        async with self.client.stream("POST", url + GENERATE_PATH, content=content) as response:
            if response.status_code != HTTPStatus.OK:
                raise _problem(response, await response.aread())
            prompt_tokens, texts = 0, list[str]()
            async for line in lines_as_they_come(response.aiter_bytes()):
                piece = LINE.validate_json(line)
                if isinstance(piece, PromptRead):
                    prompt_tokens = piece.prompt_tokens
                elif isinstance(piece, GenerationFailed):
                    raise Unavailable(piece.failed)
                elif isinstance(piece, TextDelta):
                    texts.append(piece.text)
                    if piece.finish_reason is not None:
                        usage = TokenUsage(
                            prompt_tokens=prompt_tokens,
                            completion_tokens=piece.completion_tokens or 0,
                        )
                        return Reply("".join(texts), piece.finish_reason, usage)
        raise Unavailable("The serving process ended during the answer.")


@dataclass(frozen=True)
class ExternalModel:
    """A model of another provider, which may ignore the schema and adds to `refused`."""

    client: httpx.AsyncClient
    access: EndpointAccess
    model: str
    refused: set[str] = field(default_factory=set[str])
    seconds: float = ANSWER_SECONDS

    async def ask(self, question: Question) -> Reply:
        """Return an answer, without parameters that the model refuses and does not need."""
        refused = frozenset(self.refused)
        fields = question.parameters.without(refused)
        while True:
            try:
                reply = await self._ask(question, fields)
            except RefusedByModel as error:
                if error.parameter is None:
                    raise
                refused |= {error.parameter}
                fewer = question.parameters.without(refused)
                if fewer == fields:
                    raise
                fields = fewer
            else:
                self.refused.update(refused)
                return reply

    async def _ask(self, question: Question, fields: dict[str, Any]) -> Reply:
        body = {
            "model": self.model,
            "messages": list(question.messages),
            **fields,
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "name": question.schema_name,
                    "strict": True,
                    "schema": _strict(question.schema),
                },
            },
        }
        headers = {"authorization": f"Bearer {self.access.key}"} if self.access.key else {}
        url = self.access.url.rstrip("/") + "/chat/completions"
        try:
            async with (
                asyncio.timeout(self.seconds),
                self.client.stream("POST", url, json=body, headers=headers) as response,
            ):
                content = await _limited(response)
                if response.status_code != HTTPStatus.OK:
                    problem = _problem(response, b"")
                    if response.status_code == HTTPStatus.BAD_REQUEST:
                        parameter = refused_parameter(content)
                        problem = RefusedByModel(str(problem), response.status_code, parameter)
                    raise problem
        except TimeoutError:
            raise Unavailable(f"No answer within {self.seconds:.0f} seconds.") from None
        except Refused as error:
            raise RefusedByModel(str(error)) from error
        except (httpx.InvalidURL, UnicodeError) as error:
            raise RefusedByModel("The URL or the key cannot be sent.") from error
        except httpx.HTTPError as error:
            raise Unavailable(f"The endpoint failed: {type(error).__name__}.") from error
        return _completion(content, TOKEN_CHARACTERS * question.parameters.max_tokens)


def _completion(content: bytes, longest: int) -> Reply:
    """Return the reply in a completion, cut after some characters; empty if it is malformed."""
    try:
        document = json.loads(content)
        choice = document["choices"][0]
        text, reason = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Reply("", None, TokenUsage())
    usage = document.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return Reply(
        _storable(text[:longest]) if isinstance(text, str) else "",
        _storable(reason[:MOST_REASON]) if isinstance(reason, str) else None,
        TokenUsage(
            prompt_tokens=_count(counts.get("prompt_tokens")),
            completion_tokens=_count(counts.get("completion_tokens")),
        ),
    )


def _storable(text: str) -> str:
    """Return a text with `?` for each half of a surrogate pair, which UTF-8 cannot encode."""
    return text.encode(errors="replace").decode()


def _count(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**31 else 0


def _strict(schema: Any) -> Any:
    """Return a schema without the limits on lengths, which strict schemas of providers lack."""
    if isinstance(schema, dict):
        return {
            key: _strict(value)
            for key, value in schema.items()
            if key not in ("minLength", "maxLength", "minItems", "maxItems")
        }
    return [_strict(each) for each in schema] if isinstance(schema, list) else schema


async def _limited(response: httpx.Response) -> bytes:
    """Return the body as it was sent: decompressed, a small one could fill the memory."""
    content = b""
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > ANSWER_BYTES:
            return b""
    return content


def _problem(response: httpx.Response, body: bytes) -> Unavailable | RefusedByModel:
    """Return the error for a status. The texts of external endpoints are not part of it."""
    status = response.status_code
    message = f"Status {status}."
    if body:
        with suppress(ValueError, LookupError, TypeError):
            message = str(json.loads(body)["message"])
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in PASSING:
        delay = requested_delay(response, datetime.now(UTC))
        return Unavailable(message, status, None if delay is None else delay.total_seconds())
    return RefusedByModel(message, status)


@dataclass(frozen=True)
class Connections:
    """The connection pools to the serving processes and to external endpoints."""

    serving: httpx.AsyncClient
    serving_urls: tuple[str, ...]
    external: httpx.AsyncClient
    policy: TargetPolicy
    seconds: float = ANSWER_SECONDS

    def deployed(self, deployment_id: UUID, account_id: UUID) -> DeployedModel:
        """Return a deployed model."""
        return DeployedModel(
            self.serving, self.serving_urls, deployment_id, account_id, self.seconds
        )

    def endpoint(self, access: EndpointAccess, model: str, refused: set[str]) -> ExternalModel:
        """Return an external model, which adds to `refused`, if its URL is still permitted."""
        try:
            self.policy.require_url(access.url)
        except Invalid as error:
            raise RefusedByModel("The operator no longer permits the URL.") from error
        return ExternalModel(self.external, access, model, refused, self.seconds)

    def within(self, seconds: float) -> Connections:
        """Return the same connections with another limit on the time of an answer."""
        return replace(self, seconds=seconds)


@asynccontextmanager
async def open_connections(
    settings: Settings, policy: TargetPolicy, resolve: Resolve | None = None
) -> AsyncGenerator[Connections]:
    """Open the connection pools. `resolve` replaces the look-up of host names."""
    patient = httpx.Timeout(CONNECT_SECONDS, read=None, pool=None)
    urls = [url for each in (settings.serving_url or "").split(",") if (url := each.strip())]
    async with (
        httpx.AsyncClient(
            headers={
                "authorization": f"Bearer {settings.serving_secret}",
                "content-type": "application/json",
            },
            timeout=patient,
            trust_env=False,
        ) as serving,
        httpx.AsyncClient(
            headers={
                "accept-encoding": "identity",
                "user-agent": f"EcoLink/{package_version()} (synthesis)",
            },
            timeout=patient,
            transport=GuardedTransport(policy, resolve),
        ) as external,
    ):
        yield Connections(serving, tuple(url.rstrip("/") for url in urls), external, policy)
