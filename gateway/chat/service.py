"""Chat completions of deployed models."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from domain.core.errors import DomainError, NotFound, Suspended, WrongState
from domain.deployments.deployment import DeploymentStatus
from domain.jobs.job import Job
from domain.jobs.lifecycle import JobStatus
from gateway.backend import Backend
from gateway.chat.schemas import ChatRequest
from gateway.chat.serving import Generation, GenerationInterrupted, Serving
from gateway.events.feed import EventFeed
from gateway.http.access import Caller
from gateway.http.errors import NotServing, NotYetVisible, Problem, Unauthenticated, status_of
from gateway.http.openai_errors import body as error_body
from gateway.http.read_your_writes import caught_up
from gateway.http.streaming import while_connected
from infrastructure.chat.generation import TextDelta, ToolCall
from projections import DEPLOYMENTS, MODELS
from projections.base_models import all_base_models
from projections.deployments import deployment_named
from projections.models import model_of
from projections.projection import Row

Object = dict[str, Any]

ASK_OPERATOR = "Ask an operator to deploy it."


class ModelNotFound(NotFound):
    """The account has no model with this name."""

    code = "model_not_found"


async def start_chat(
    request: Request, form: ChatRequest, caller: Caller, backend: Backend, serving: Serving
) -> Chat:
    """Start a completion and set the rate limit headers. The caller must close the completion.

    Raise RateLimited, Invalid or Overloaded if the request is rejected, and ModelNotFound,
    WrongState, NotServing or NotYetVisible if the model cannot answer.
    """
    rates, headers = backend.quotas.rates, request.state.limit_headers
    headers |= rates.take("chats", caller.account_id).headers("requests")
    headers |= rates.require("prompt_tokens", caller.account_id).headers("tokens")
    deployment_id = await run_in_threadpool(_deployed, backend, caller, form.model)
    asked = await run_in_threadpool(form.asked, deployment_id, caller.account_id)
    frame = Frame(caller.request_id, int(backend.clock.now().timestamp()), form.model)
    generation = await while_connected(request, serving.generate(asked))
    read = generation.prompt_tokens * asked.choices
    headers |= rates.charge("prompt_tokens", caller.account_id, read).headers("tokens")
    return Chat(generation, frame, asked.choices, form.shows_usage)


@dataclass(frozen=True)
class Frame:
    """The fields that all objects of a completion share."""

    request_id: str
    created: int  # in seconds since 1970
    model: str

    def object(self, kind: str, choices: list[Object], **more: Any) -> Object:
        """Return an object of the given type, such as `chat.completion.chunk`."""
        return {
            "id": f"chatcmpl-{self.request_id.replace('-', '')}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": None,
            "choices": choices,
            **more,
        }

    def chunk(self, choice: int, delta: Object, reason: str | None) -> Object:
        """Return a chunk of one choice."""
        return self.object(
            "chat.completion.chunk",
            [{"index": choice, "delta": delta, "logprobs": None, "finish_reason": reason}],
        )


@dataclass
class Choice:
    """The generated part of a choice."""

    texts: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    tokens: int = 0
    calls: list[ToolCall] = field(default_factory=list)

    def add(self, piece: TextDelta) -> None:
        """Append a text delta."""
        self.texts.append(piece.text)
        self.finish_reason = piece.finish_reason
        self.tokens = piece.completion_tokens or 0
        self.calls = piece.tool_calls or []

    def object(self, index: int) -> Object:
        """Return the finished choice as OpenAI's object."""
        content = "".join(self.texts)
        message: Object = {"role": "assistant", "content": content, "refusal": None}
        if self.calls:
            message |= {"content": content or None, "tool_calls": _called(self.calls)}
        return {
            "index": index,
            "message": message,
            "logprobs": None,
            "finish_reason": self.finish_reason,
        }


@dataclass(frozen=True)
class Chat:
    """A completion in progress, which the caller reads as a whole or as a stream."""

    generation: Generation
    frame: Frame
    choices: int
    shows_usage: bool

    async def close(self) -> None:
        """Stop the generation."""
        await self.generation.close()

    async def completion(self, require_valid: Callable[[], None]) -> Object:
        """Return the whole completion. `require_valid` may raise after each text delta."""
        choices = [Choice() for _ in range(self.choices)]
        async for piece in self.generation.pieces():
            require_valid()
            choices[piece.choice].add(piece)
        return self.frame.object(
            "chat.completion",
            [choice.object(index) for index, choice in enumerate(choices)],
            usage=self._usage(sum(choice.tokens for choice in choices)),
        )

    async def events(self) -> AsyncIterator[str]:
        """Yield the data of server-sent events. An interrupted completion ends with an error."""
        more: Object = {"usage": None} if self.shows_usage else {}
        frame, tokens = self.frame, 0
        for index in range(self.choices):
            yield _json(frame.chunk(index, {"role": "assistant", "content": ""}, None) | more)
        try:
            async for piece in self.generation.pieces():
                tokens += piece.completion_tokens or 0
                if piece.text:
                    yield _json(frame.chunk(piece.choice, {"content": piece.text}, None) | more)
                if piece.tool_calls:
                    calls = [
                        {"index": number, **call}
                        for number, call in enumerate(_called(piece.tool_calls))
                    ]
                    yield _json(frame.chunk(piece.choice, {"tool_calls": calls}, None) | more)
                if piece.finish_reason is not None:
                    yield _json(frame.chunk(piece.choice, {}, piece.finish_reason) | more)
        except GenerationInterrupted as error:
            yield _json(error_body(503, Problem(code=error.code, message=error.message)))
            return
        if self.shows_usage:
            yield _json(frame.object("chat.completion.chunk", [], usage=self._usage(tokens)))
        yield "[DONE]"

    def _usage(self, completion_tokens: int) -> dict[str, int]:
        prompt_tokens = self.generation.prompt_tokens
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        }


def _called(calls: list[ToolCall]) -> list[Object]:
    """Return tool calls as OpenAI's objects."""
    return [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in calls
    ]


async def events_while_valid(request: Request, caller: Caller, chat: Chat) -> AsyncIterator[str]:
    """Yield a completion's events. If the key ends meanwhile, the last one is an error."""
    feed: EventFeed = request.app.state.feed
    try:
        async for event in chat.events():
            _require_valid(feed, caller)
            yield event
    except (Unauthenticated, Suspended) as error:
        problem = Problem(code=error.code, message=error.message)
        yield _json(error_body(status_of(error), problem))


async def completion_while_valid(request: Request, caller: Caller, chat: Chat) -> Object:
    """Return the whole completion, unless the key ends or the account is suspended."""
    feed: EventFeed = request.app.state.feed
    return await while_connected(request, chat.completion(lambda: _require_valid(feed, caller)))


def _require_valid(feed: EventFeed, caller: Caller) -> None:
    """Check again that the key did not end and that the account is not suspended."""
    if caller.key_id in feed.revoked_keys or caller.rights.expired(feed.backend.clock.now()):
        raise Unauthenticated("The API key was revoked or has expired. Use another key.")
    if caller.account_id in feed.suspended_accounts:
        raise Suspended("The account was suspended. Ask your operator to reinstate it.")


def _json(content: Object) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _deployed(backend: Backend, caller: Caller, model: str) -> UUID:
    """Return the ID of the active deployment with this name.

    Raise ModelNotFound if the account has no such model, and WrongState, NotServing or
    NotYetVisible if its deployment is not active.
    """
    row = _deployment(backend, caller, model)
    if row is None:
        current = caught_up(backend, DEPLOYMENTS, MODELS)
        row = _deployment(backend, caller, model)
        if row is None and not current:
            raise NotYetVisible
    if row is None:
        raise _not_deployed(backend, caller, model)
    match DeploymentStatus(row["status"]):
        case DeploymentStatus.ACTIVE:
            return row["deployment_id"]
        case DeploymentStatus.DEPLOYING:
            raise NotServing(f"{model} is loading. Try again in a few seconds.", field="model")
        case DeploymentStatus.FAILED:
            why = row["failure_message"]
            raise WrongState(f"The deployment of {model} failed: {why}", field="model")
        case DeploymentStatus.UNDEPLOYED:
            how = ASK_OPERATOR if row["job_id"] is None else _how_to_deploy(model)
            raise WrongState(f"{model} is undeployed. {how}", field="model")


def _not_deployed(backend: Backend, caller: Caller, model: str) -> DomainError:
    """Return the error for a name without a deployment.

    The error is temporary if the job of the model deploys it: the serving process has not read that
    event yet.
    """
    with backend.pool.connection() as connection:
        own = model_of(connection, caller.account_id, model)
        is_base = any(base["name"] == model for base in all_base_models(connection))
    if own is not None and _will_deploy(backend.log.load(Job, own["job_id"])):
        return NotServing(
            f"{model} is queued for loading. Try again in a few seconds.", field="model"
        )
    if own is not None or is_base:
        how = ASK_OPERATOR if is_base else _how_to_deploy(model)
        return WrongState(f"{model} is not deployed. {how}", field="model")
    return ModelNotFound(f"Unknown model {model!r}. See GET /v1/models.", field="model")


def _will_deploy(job: Job) -> bool:
    return job.status is JobStatus.REGISTERED and job.order.deploy


def _how_to_deploy(model: str) -> str:
    return f"Deploy it with POST /api/models/{model}/deploy."


def _deployment(backend: Backend, caller: Caller, model: str) -> Row | None:
    with backend.pool.connection() as connection:
        return deployment_named(connection, caller.account_id, model)
