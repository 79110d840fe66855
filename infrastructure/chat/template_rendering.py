"""Rendering of chat templates that matches the training library without importing it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from infrastructure.chat.chat_template import FALLBACK_CHAT_TEMPLATE

SPECIAL_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)

TEMPLATE_FILE, CONFIG, OTHER_TOKENS = (
    "chat_template.jinja",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
TOOL_TEMPLATE_FILE = "additional_chat_templates/tool_use.jinja"
"""File with the chat template for conversations with tools, if it is another one."""

TEMPLATE_FILES = (TEMPLATE_FILE, TOOL_TEMPLATE_FILE, CONFIG, OTHER_TOKENS)
"""Files of a saved model from which EcoLink reads the chat template."""

DEFAULT, TOOL_USE = "default", "tool_use"
"""Names of a base model's chat templates. As in transformers, the second one is for tools."""


def one_template(named: Mapping[str, str]) -> str | None:
    """Return one template that renders like the named ones, or None without a default one.

    Calls without definitions also use the template for tools, if the default one ignores calls.
    """
    default, tool_use = named.get(DEFAULT), named.get(TOOL_USE)
    if default is None or tool_use is None:
        return default
    condition = "tools"
    if "tool_calls" not in default:
        condition += ' or messages | selectattr("tool_calls", "defined") | list'
    # A plus sign keeps the white space of the templates. Jinja drops the newline at their ends.
    with_tools, without = (re.sub(r"(\r\n|\r|\n)\Z", "", each) for each in (tool_use, default))
    return f"{{%+ if {condition} +%}}{with_tools}{{%+ else +%}}{without}{{%+ endif +%}}"


class ChatRefused(Exception):
    """The chat template of the base model is invalid, or fails on an example.

    `example` is the number of the example, from 1. None means that the template itself is invalid.
    """

    def __init__(self, message: str, example: int | None = None) -> None:
        super().__init__(message)
        self.example = example


class ChatTemplate:
    """A renderer of messages in the format on which the base model was trained.

    `special_tokens` maps names such as `bos_token` to their text. `today` is the date, at midnight,
    for templates that insert one. If it is None, they use the time of each rendering. Raise
    ChatRefused if the template is invalid.
    """

    def __init__(
        self, source: str, special_tokens: Mapping[str, str], today: date | None = None
    ) -> None:
        self.source = source
        self.special_tokens = special_tokens
        try:
            self._template = _environment(today).from_string(source)
        except TemplateError as error:
            raise ChatRefused(f"the base model's chat template is invalid: {error}") from error

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> ChatTemplate:
        """Return the template in the TEMPLATE_FILES of a saved model, or the fallback.

        The template is a separate file or part of the configuration. Named templates become one.
        Raise ChatRefused if the template is invalid.
        """
        config = _json(files, CONFIG)
        named = {**_json(files, OTHER_TOKENS), **config}
        tokens = {name: _text(named[name]) for name in SPECIAL_TOKENS if named.get(name)}
        source = config.get("chat_template")
        if TEMPLATE_FILE in files:
            parts = {DEFAULT: TEMPLATE_FILE, TOOL_USE: TOOL_TEMPLATE_FILE}
            source = one_template(
                {name: files[file].decode("utf-8") for name, file in parts.items() if file in files}
            )
        if isinstance(source, list):
            source = one_template({entry["name"]: entry["template"] for entry in source})
            if source is None:
                raise ChatRefused(
                    "the base model has several chat templates, but none is named default"
                )
        return cls(source or FALLBACK_CHAT_TEMPLATE, tokens)

    def render(
        self, messages: list[dict[str, Any]], tools: Any = None, *, prompt: bool = False
    ) -> str:
        """Return the text of messages. If `prompt` is true, append the start of an answer.

        Raise ChatRefused if the template rejects the messages.
        """
        try:
            return self._template.render(
                messages=messages,
                tools=tools,
                documents=None,
                add_generation_prompt=prompt,
                **self.special_tokens,
            )
        except MemoryError:
            raise
        except Exception as error:  # the template is untrusted code
            raise ChatRefused(
                f"the base model's chat template rejects the messages: {error}"
            ) from error


class _GenerationMarks(Extension):
    """A Jinja extension for `{% generation %}`, which marks the text of the assistant."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # A call block, as in the training library, so that variables set inside it stay local.
        call = self.call_method("_body")
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


def _environment(today: date | None) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationMarks, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda pattern: (today or datetime.now(UTC)).strftime(
        pattern
    )
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML, but models are trained on unescaped text.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _text(token: Any) -> str:
    """Return the text of a special token, which is a string or an object with `content`."""
    return token["content"] if isinstance(token, dict) else token


def _json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    return json.loads(files[name]) if name in files else {}
