"""An Ollama Modelfile for a GGUF file.

Ollama's templates are in Go's language, not in Jinja. Most chat templates put the same text before
and after each message of a role. This module finds these texts by rendering, and checks the result
on other chats. If a template does more, the Modelfile has none, and Ollama chooses one itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infrastructure.chat.template_rendering import ChatRefused, ChatTemplate

SYSTEM, USER, ANSWER = "S\u2061YS", "U\u2061SER", "A\u2061NSWER"
"""Contents of messages that occur in no template. They begin and end with a letter."""

Message = dict[str, Any]

CHATS: tuple[tuple[str, ...], ...] = (
    ("user",),
    ("system", "user"),
    ("user", "assistant", "user"),
    ("system", "user", "assistant", "user", "assistant", "user"),
)
"""Roles of chats on which a template is checked."""

QUOTES = '"""'

MAX_CONTEXT = 8192
"""Largest context in tokens: 131,072 of Llama 3.1 8B take 16 GiB in float16."""


@dataclass(frozen=True)
class ChatFormat:
    """The texts around the messages of a chat."""

    start: str  # before everything
    default_system: str  # instead of a system message, if there is none
    around: Mapping[str, tuple[str, str]]  # by role
    prompt: str  # before the answer

    def render(self, messages: Sequence[Message]) -> str:
        """Return the text of messages, and the start of an answer."""
        has_system = any(each["role"] == "system" for each in messages)
        parts = [self.start, "" if has_system else self.default_system]
        for each in messages:
            before, after = self.around[each["role"]]
            parts.append(f"{before}{each['content']}{after}")
        return "".join([*parts, self.prompt])

    @property
    def go_template(self) -> str:
        """The format in the language of Ollama's templates."""
        roles = "".join(
            f'{{{{ {"if" if index == 0 else "else if"} eq .Role "{role}" }}}}'
            f"{before}{{{{ .Content }}}}{after}"
            for index, (role, (before, after)) in enumerate(self.around.items())
        )
        default = f"{{{{ if not .System }}}}{self.default_system}{{{{ end }}}}"
        return (
            f"{self.start}{default if self.default_system else ''}"
            f"{{{{ range .Messages }}}}{roles}{{{{ end }}}}{{{{ end }}}}{self.prompt}"
        )


def modelfile(
    file: str,
    template: ChatTemplate | None,
    *,
    adds_bos: bool,
    ends: Sequence[str],
    context: int,
    generation: Mapping[str, Any],
) -> str:
    """Return the content of a Modelfile for a GGUF file in the same directory.

    `ends` are the texts that end an answer. If `adds_bos` is true, llama.cpp puts the BOS token
    before each text, so the template must not. `context` is the number of tokens that the model
    supports. Ollama allocates memory for all of `num_ctx`, so it has a limit. `generation` is
    generation_config.json.
    """
    lines = [f"FROM ./{file}", ""]
    format = None if template is None else chat_format(template)
    if format is not None and adds_bos and template is not None:
        bos = template.special_tokens.get("bos_token", "")
        start = format.start.removeprefix(bos)
        format = ChatFormat(start, format.default_system, format.around, format.prompt)
    if format is not None and _is_plain(format.go_template):
        lines += [f"TEMPLATE {QUOTES}{format.go_template}{QUOTES}", ""]
    else:
        lines += ["# Ollama uses the chat template in the GGUF file.", ""]
    lines += [f"PARAMETER stop {json.dumps(each, ensure_ascii=False)}" for each in ends]
    if context > MAX_CONTEXT:
        lines.append(f"# The model supports {context:,} tokens. More context needs more memory.")
    lines.append(f"PARAMETER num_ctx {min(context, MAX_CONTEXT)}")
    for name in ("temperature", "top_p", "top_k"):
        if isinstance(value := generation.get(name), int | float):
            lines.append(f"PARAMETER {name} {value}")
    if isinstance(value := generation.get("repetition_penalty"), int | float):
        lines.append(f"PARAMETER repeat_penalty {value}")
    return "\n".join(lines) + "\n"


def chat_format(template: ChatTemplate) -> ChatFormat | None:
    """Return the format of a chat template, or None if it does more than surround messages."""
    try:
        found = _found(template)
        if found is None:
            return None
        for roles in CHATS:
            for text in ("one", "two\nlines"):
                messages = [{"role": role, "content": f"{text} {role}"} for role in roles]
                if template.render(messages, prompt=True) != found.render(messages):
                    return None
    except ChatRefused:  # for example, it has no system messages
        return None
    return found


def _found(template: ChatTemplate) -> ChatFormat | None:
    """Return the format that follows from one chat with and one without a system message."""
    contents = {"system": SYSTEM, "user": USER, "assistant": ANSWER}

    def render(*roles: str, prompt: bool = False) -> str:
        messages = [{"role": role, "content": contents[role]} for role in roles]
        return template.render(messages, prompt=prompt)

    one, two = render("system", "user"), render("system", "user", "assistant")
    three = render("system", "user", "assistant", "user")
    if not (two.startswith(one) and three.startswith(two) and SYSTEM in one and ANSWER in two):
        return None
    head, _, rest = one.partition(SYSTEM)
    between, _, user_after = rest.partition(USER)
    answer_before, _, answer_after = two.removeprefix(one).partition(ANSWER)
    user_before, _, _ = three.removeprefix(two).partition(USER)
    start, system_before = _start(template, head)
    after_system = between.removesuffix(user_before)
    plain = render("user")
    default = plain.removesuffix(f"{user_before}{USER}{user_after}").removeprefix(start)
    prompt = render("user", prompt=True).removeprefix(plain)
    around = {
        "system": (system_before, after_system),
        "user": (user_before, user_after),
        "assistant": (answer_before, answer_after),
    }
    return ChatFormat(start, default, around, prompt)


def _start(template: ChatTemplate, head: str) -> tuple[str, str]:
    """Split the text before the first message into the BOS token and the rest."""
    bos = template.special_tokens.get("bos_token", "")
    user = template.render([{"role": "user", "content": USER}])
    if bos and head.startswith(bos) and user.startswith(bos) and not _opens(template, bos):
        return bos, head.removeprefix(bos)
    return "", head


def _opens(template: ChatTemplate, bos: str) -> bool:
    """Return True if the BOS token begins every message, as in ChatML models that name it so."""
    text = template.render(
        [{"role": "user", "content": USER}, {"role": "assistant", "content": ANSWER}]
    )
    return text.count(bos) > 1


def _is_plain(text: str) -> bool:
    """Return True if the texts of a template do not end it."""
    return QUOTES not in text and text.count("{{") == text.count("}}")
