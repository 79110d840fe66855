"""Schemas of chat completions, in OpenAI's shapes."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from domain.core.errors import Invalid
from gateway.schemas import ResponseModel
from infrastructure.chat.generation import MAX_CHOICES, GenerationRequest
from infrastructure.chat.json_schema import (
    MAX_DEPTH,
    InvalidSchema,
    inside,
    require_end,
    require_schema,
)

SEEDS = 2**62

MAX_STOPS = 16

MOST_TOOLS = 128

IGNORED = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
"""Fields that EcoLink accepts and ignores."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "modalities": (None, ["text"]),
    "reasoning_effort": (None, "none"),
    "verbosity": (None, "medium"),
}
"""Unsupported fields, with the values that have no effect. EcoLink rejects any other value."""

Stop = Annotated[str, StringConstraints(min_length=1, max_length=500)]


class Part(BaseModel):
    """Part of a message's content."""

    type: str
    text: str | None = None


class Message(BaseModel):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"] = Field(examples=["user"])
    content: str | list[Part] | None = Field(default=None, examples=["Hello!"])
    name: str | None = Field(default=None, examples=["alice"])
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class Function(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$", examples=["get_weather"])
    description: str | None = Field(default=None, examples=["Return the weather of a city."])
    parameters: dict[str, Any] | None = Field(
        default=None, description="JSON schema of the arguments."
    )


class Tool(BaseModel):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


class StreamOptions(BaseModel):
    """Options of a streamed completion."""

    include_usage: bool = False


class JsonSchema(BaseModel):
    """A schema that the answer must match."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", examples=["answer"])
    description: str | None = None
    json_schema: dict[str, Any] = Field(
        alias="schema",
        examples=[
            {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
                "additionalProperties": False,
            }
        ],
        description="JSON schema of the answer.",
    )
    strict: bool | None = Field(default=None, description="EcoLink always enforces the schema.")


class ResponseFormat(BaseModel):
    """The format of the answer: any text, any JSON object, or JSON that matches a schema."""

    type: Literal["text", "json_object", "json_schema"] = Field(examples=["json_schema"])
    json_schema: JsonSchema | None = None

    def schema_of_answer(self) -> dict[str, Any] | None:
        """Return the schema of the answer, or None for any text. Raise Invalid."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return {"type": "object"}
        if self.json_schema is None:
            raise Invalid("The schema is missing. Add it.", field="response_format.json_schema")
        schema = self.json_schema.json_schema
        try:
            require_schema(schema)
        except InvalidSchema as error:
            field = "response_format.json_schema.schema"
            raise Invalid(f"The schema is not valid. {error}", field=field) from error
        return schema


class ChatRequest(BaseModel):
    """The body of a chat request. An unsupported field fails, unless its value has no effect."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(examples=["ft:smollm2-135m-instruct:0b0f8f5c3a4e"])
    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto"] | None = Field(
        default=None, description="`none` hides the tools from the model."
    )

    def asked(self, deployment_id: UUID, account_id: UUID) -> GenerationRequest:
        """Return the request for the serving process. Raise Invalid for unsupported fields."""
        for name, value in (self.model_extra or {}).items():
            if name not in IGNORED and value not in NEUTRAL.get(name, (None,)):
                raise Invalid(f"{name!r} is not supported. Remove it.", field=name)
        schema = self.response_format and self.response_format.schema_of_answer()
        tools = self._tools()
        if schema is not None and tools is not None:
            raise Invalid(
                "A JSON response_format and tools cannot be combined. Remove one of them, or set "
                'tool_choice to "none".',
                field="response_format",
            )
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        limit = self.max_completion_tokens
        return GenerationRequest(
            deployment_id=deployment_id,
            account_id=account_id,
            messages=[_plain(place, message) for place, message in enumerate(self.messages)],
            choices=self.n or 1,
            max_tokens=self.max_tokens if limit is None else limit,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=None if self.seed is None else self.seed % SEEDS,
            stop=stop,
            tools=tools,
            response_schema=schema,
        )

    def _tools(self) -> list[dict[str, Any]] | None:
        """Return the tools that the model may call. Raise Invalid if two have the same name."""
        if not self.tools or self.tool_choice == "none":
            return None
        names: set[str] = set()
        for place, tool in enumerate(self.tools):
            if _is_too_deep(tool.model_dump()):
                raise Invalid(
                    f"A tool has more than {MAX_DEPTH} levels. Use fewer levels.",
                    field=f"tools.{place}",
                )
            try:
                require_end(tool.function.parameters)
            except InvalidSchema as error:
                field = f"tools.{place}.function.parameters"
                raise Invalid(f"The schema is not valid. {error}", field=field) from error
            if tool.function.name in names:
                raise Invalid(
                    f"Two tools have the name {tool.function.name!r}. Rename one of them.",
                    field=f"tools.{place}.function.name",
                )
            names.add(tool.function.name)
        return [tool.model_dump(exclude_unset=True) for tool in self.tools]

    @property
    def shows_usage(self) -> bool:
        """True if the last chunk of a stream contains the usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class CalledFunction(ResponseModel):
    """The function of a tool call."""

    name: str = Field(examples=["get_weather"])
    arguments: str = Field(
        examples=['{"city": "Paris"}'],
        description="The arguments as JSON. They may not match the schema of the tool.",
    )


class ChatCompletionToolCall(ResponseModel):
    """A tool call in an answer."""

    id: str = Field(examples=["call_0b0f8f5c3a4e5d0c9a4d0e6b"])
    type: Literal["function"]
    function: CalledFunction


class ChatCompletionMessage(ResponseModel):
    """The message that the model generated. `content` is null if it only calls tools."""

    role: Literal["assistant"]
    content: str | None = Field(examples=["Hello!"])
    refusal: None
    tool_calls: list[ChatCompletionToolCall] | None = Field(
        default=None, description="Tool calls. Absent if there are none."
    )


class ChatCompletionChoice(ResponseModel):
    """One of the `n` generated choices."""

    index: int = Field(examples=[0])
    message: ChatCompletionMessage
    logprobs: None
    finish_reason: Literal["stop", "length", "tool_calls"]


class Usage(ResponseModel):
    """Numbers of tokens in the prompt and in the completion."""

    prompt_tokens: int = Field(examples=[12])
    completion_tokens: int = Field(examples=[20])
    total_tokens: int = Field(examples=[32])


class ChatCompletion(ResponseModel):
    """OpenAI's `chat.completion` object."""

    id: str = Field(examples=["chatcmpl-0b0f8f5c3a4e5d0c9a4d0e6b1c2d3e4f"])
    object: Literal["chat.completion"]
    created: int = Field(examples=[1_795_624_800], description="Seconds since 1970.")
    model: str = Field(examples=["ft:smollm2-135m-instruct:0b0f8f5c3a4e"])
    system_fingerprint: None
    choices: list[ChatCompletionChoice]
    usage: Usage


def _plain(place: int, message: Message) -> dict[str, Any]:
    for call in message.tool_calls or ():
        if _is_too_deep(call):
            raise Invalid(
                f"A tool call has more than {MAX_DEPTH} levels. Use fewer levels.",
                field=f"messages.{place}.tool_calls",
            )
    plain = message.model_dump(exclude_none=True)
    if message.role == "developer":
        plain["role"] = "system"  # the name that chat templates know
    if isinstance(message.content, list):
        for part in message.content:
            if part.type != "text" or part.text is None:
                raise Invalid(
                    f"Unsupported part {part.type!r} in messages.{place}. Send only text.",
                    field=f"messages.{place}.content",
                )
        plain["content"] = "".join(part.text or "" for part in message.content)
    if not plain.get("content") and not message.tool_calls and message.role != "assistant":
        plain["content"] = ""
    for call in message.tool_calls or ():
        if not isinstance(call.get("function"), dict):
            raise Invalid(
                f"A tool call in messages.{place} has no function. Add it.",
                field=f"messages.{place}.tool_calls",
            )
    return plain


def _is_too_deep(call: dict[str, Any]) -> bool:
    levels: list[Any] = [call]
    function = call.get("function")
    arguments = function.get("arguments") if isinstance(function, dict) else None
    if isinstance(arguments, str):
        try:
            levels.append(json.loads(arguments))
        except RecursionError:
            return True
        except ValueError:
            pass  # not JSON, so the chat template receives it as text
    for _ in range(MAX_DEPTH):
        levels = [inner for each in levels for inner in inside(each)]
    return any(isinstance(each, dict | list) for each in levels)
