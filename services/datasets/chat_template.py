"""A base model's chat template, rendered as the training library renders it, but without it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from infrastructure.chat_template import FALLBACK_CHAT_TEMPLATE

SPECIAL_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


class ChatRefused(Exception):
    """The base model's chat template is invalid, refuses an example, or fails on it.

    `example` counts from 1; None stands for the template itself.
    """

    def __init__(self, message: str, example: int | None = None) -> None:
        super().__init__(message)
        self.example = example


class ChatTemplate:
    """Turns messages into the text that the base model is trained on.

    `special_tokens` maps names such as `bos_token` to their text. Raises ChatRefused for a source
    that is no valid template.
    """

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        self.source = source
        self.special_tokens = special_tokens
        try:
            self._template = _environment().from_string(source)
        except TemplateError as error:
            raise ChatRefused(f"the base model's chat template is invalid: {error}") from error

    @classmethod
    def of(cls, model_directory: Path) -> ChatTemplate:
        """The template of a saved model, or the fallback if it has none.

        Reads `chat_template.jinja`, else `chat_template` in `tokenizer_config.json`, where a list
        of named templates means the one named `default`. Raises ChatRefused if that is absent.
        """
        config = _json(model_directory / "tokenizer_config.json")
        named = {**_json(model_directory / "special_tokens_map.json"), **config}
        tokens = {name: _text(named[name]) for name in SPECIAL_TOKENS if named.get(name)}
        path = model_directory / "chat_template.jinja"
        source = path.read_text(encoding="utf-8") if path.exists() else config.get("chat_template")
        if isinstance(source, list):
            templates = {entry["name"]: entry["template"] for entry in source}
            if "default" not in templates:
                raise ChatRefused("the base model has several chat templates and no default")
            source = templates["default"]
        return cls(FALLBACK_CHAT_TEMPLATE if source is None else source, tokens)

    def render(self, messages: list[dict[str, Any]]) -> str:
        """The text of a conversation, without a generation prompt; raises ChatRefused."""
        # A weight is for the trainer; templates that print whole messages must not show it.
        shown = [
            {key: value for key, value in message.items() if key != "weight"}
            for message in messages
        ]
        try:
            return self._template.render(
                messages=shown,
                tools=None,
                documents=None,
                add_generation_prompt=False,
                **self.special_tokens,
            )
        except Exception as error:  # the template is foreign code and may fail in any way
            raise ChatRefused(f"the base model's chat template refuses it: {error}") from error


class _GenerationMarks(Extension):
    """Accepts `{% generation %}`, which marks what the assistant says and prints nothing."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # A call block, as in the training library: variables set within stay within.
        call = self.call_method("_body")
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationMarks, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML, which no model was trained on.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _text(token: Any) -> str:
    """A special token is written as a text or as an object with its `content`."""
    return token["content"] if isinstance(token, dict) else token


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes()) if path.exists() else {}
