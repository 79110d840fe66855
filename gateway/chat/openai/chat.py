"""Chat completions under /v1: answers of deployed models, whole or as they are said."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect

from domain.core.errors import NotFound, WrongState
from domain.deployments.deployment import DeploymentStatus
from domain.jobs.job import Job
from domain.jobs.lifecycle import JobStatus
from gateway.backend import Backend, BackendOf
from gateway.chat.openai.objects import ANSWERS
from gateway.chat.request import ChatRequest
from gateway.chat.serving import BrokenOff, ServingOf, Speech
from gateway.http.access import Caller, CallerOf
from gateway.http.errors import NotServing, NotYetVisible, Problem
from gateway.http.event_stream import EventStream
from gateway.http.openai_errors import body as error_body
from gateway.http.read_your_writes import caught_up
from infrastructure.generation import TextGrown
from projections import DEPLOYMENTS, MODELS
from projections.base_models import all_base_models
from projections.deployments import deployment_named
from projections.models import model_of
from projections.projection import Row

router = APIRouter()

Result = TypeVar("Result")

BY_OPERATOR = "an operator can deploy it"


class ModelNotFound(NotFound):
    """No model has this name, as far as the caller may know."""

    code = "model_not_found"


@router.post("/chat/completions", responses=ANSWERS)
async def create_completion(
    request: Request, form: ChatRequest, caller: CallerOf, backend: BackendOf, serving: ServingOf
) -> Response:
    """Answer a chat."""
    rates, headers = backend.quotas.rates, request.state.limit_headers
    headers |= rates.take("chats", caller.account_id).headers("requests")
    headers |= rates.require("prompt_tokens", caller.account_id).headers("tokens")
    deployment_id = await run_in_threadpool(_deployed, backend, caller, form.model)
    asked = form.asked(deployment_id, caller.account_id)
    frame = Frame(caller.request_id, int(backend.clock.now().timestamp()), form.model)
    speech = await _unless_gone(request, serving.ask(asked))
    read = speech.prompt_tokens * asked.choices
    headers |= rates.charge("prompt_tokens", caller.account_id, read).headers("tokens")
    if form.stream:
        return EventStream(_events(speech, frame, asked.choices, form.shows_usage), speech.close)
    try:
        completion = await _unless_gone(request, _completion(speech, frame, asked.choices))
    finally:
        await speech.close()
    return JSONResponse(completion)


def _deployed(backend: Backend, caller: Caller, model: str) -> UUID:
    """The deployment that answers under a name; raises ModelNotFound, WrongState, NotServing,
    and NotYetVisible."""
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
            raise NotServing(f"{model} is being loaded; try again in a few seconds", field="model")
        case DeploymentStatus.FAILED:
            why = row["failure_message"]
            raise WrongState(f"{model} could not be deployed: {why}", field="model")
        case DeploymentStatus.UNDEPLOYED:
            how = BY_OPERATOR if row["job_id"] is None else _by_owner(model)
            unless = "" if row["step"] is None else ", unless it was deleted since"
            raise WrongState(f"{model} was undeployed; {how}{unless}", field="model")


def _not_deployed(
    backend: Backend, caller: Caller, model: str
) -> NotFound | WrongState | NotServing:
    """Why a name that never was deployed is refused, for now if its job's order has it deployed."""
    with backend.pool.connection() as connection:
        own = model_of(connection, caller.account_id, model)
        is_base = any(base["name"] == model for base in all_base_models(connection))
    if own is not None and _is_next(backend.log.load(Job, own["job_id"])):
        return NotServing(f"{model} will be loaded soon; try again in a few seconds", field="model")
    if own is not None or is_base:
        how = BY_OPERATOR if is_base else _by_owner(model)
        return WrongState(f"{model} is not deployed; {how}", field="model")
    return ModelNotFound(f"there is no model {model} that you may use", field="model")


def _is_next(job: Job) -> bool:
    """Whether what serves has yet to hear that a job's model is there, and to deploy it."""
    return job.status is JobStatus.REGISTERED and job.order.deploy


def _by_owner(model: str) -> str:
    return f"deploy it with POST /api/models/{model}/deploy"


def _deployment(backend: Backend, caller: Caller, model: str) -> Row | None:
    with backend.pool.connection() as connection:
        return deployment_named(connection, caller.account_id, model)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """What the work results in; it is cancelled, with ClientDisconnect, when the client leaves."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for each in (working, leaving):
            each.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


@dataclass(frozen=True)
class Frame:
    """What every object of one answer says."""

    request_id: str
    created: int  # seconds since 1970
    model: str

    def object(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """An object of a kind with its choices."""
        return {
            "id": f"chatcmpl-{self.request_id.replace('-', '')}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": None,
            "choices": choices,
            **more,
        }

    def chunk(self, choice: int, delta: dict[str, str], reason: str | None) -> dict[str, Any]:
        """A piece of one choice."""
        return self.object(
            "chat.completion.chunk",
            [{"index": choice, "delta": delta, "logprobs": None, "finish_reason": reason}],
        )


@dataclass
class Choice:
    """One answer as far as it has come."""

    texts: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    tokens: int = 0

    def hear(self, piece: TextGrown) -> None:
        """Add a piece."""
        self.texts.append(piece.text)
        self.finish_reason = piece.finish_reason
        self.tokens = piece.completion_tokens or 0


async def _completion(speech: Speech, frame: Frame, count: int) -> dict[str, Any]:
    """The whole answer; raises BrokenOff."""
    choices = [Choice() for _ in range(count)]
    async for piece in speech.pieces():
        choices[piece.choice].hear(piece)
    return frame.object(
        "chat.completion",
        [
            {
                "index": index,
                "message": {
                    "role": "assistant",
                    "content": "".join(choice.texts),
                    "refusal": None,
                },
                "logprobs": None,
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(choices)
        ],
        usage=_usage(speech.prompt_tokens, sum(choice.tokens for choice in choices)),
    )


async def _events(
    speech: Speech, frame: Frame, count: int, shows_usage: bool
) -> AsyncIterator[str]:
    """Server-sent events of an answer; one that breaks off ends with an error."""
    more: dict[str, Any] = {"usage": None} if shows_usage else {}
    tokens = 0
    for index in range(count):
        yield _event(frame.chunk(index, {"role": "assistant", "content": ""}, None) | more)
    try:
        async for piece in speech.pieces():
            tokens += piece.completion_tokens or 0
            if piece.text:
                yield _event(frame.chunk(piece.choice, {"content": piece.text}, None) | more)
            if piece.finish_reason is not None:
                yield _event(frame.chunk(piece.choice, {}, piece.finish_reason) | more)
    except BrokenOff as error:
        problem = Problem(code=error.code, message=error.message)
        yield _event(error_body(503, problem))
        return
    if shows_usage:
        usage = _usage(speech.prompt_tokens, tokens)
        yield _event(frame.object("chat.completion.chunk", [], usage=usage))
    yield "data: [DONE]\n\n"


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
