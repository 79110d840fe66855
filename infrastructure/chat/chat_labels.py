"""Conversion of conversations into token IDs and labels, for the trainer and the web pages."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from infrastructure.chat.chat_template import plain_message, with_tools_as_text
from infrastructure.chat.template_rendering import ChatRefused, ChatTemplate
from infrastructure.chat.text_encoder import Span, TextEncoder, Tokens, readable

IGNORED = -100  # label of a token without loss, as in torch's cross entropy

Message = dict[str, Any]


class Unrenderable(Exception):
    """The chat template rejects the conversation, or the renderer cannot find an answer's start."""


@dataclass(frozen=True)
class Example:
    """Token IDs and labels of the same length. A label is the token's ID, or IGNORED."""

    input_ids: Sequence[int]
    labels: Sequence[int]

    @property
    def label_tokens(self) -> int:
        """Number of trainable tokens. The first token of a sequence is never predicted."""
        return len(self.label_positions)

    @property
    def label_positions(self) -> list[int]:
        """Positions of the trainable tokens, from 1. Position 1 is never predicted."""
        return [n for n, label in enumerate(self.labels[1:], 2) if label != IGNORED]

    def truncated(self, max_tokens: int) -> Example:
        """Return a copy with only the first `max_tokens` tokens."""
        return Example(self.input_ids[:max_tokens], self.labels[:max_tokens])


class Marked(NamedTuple):
    """A text, and the spans of its trainable parts in order."""

    text: str
    spans: list[Span]


class ChatRenderer:
    """A renderer that marks the assistant's answers in conversations.

    Templates need no `{% generation %}` tags. The span of an answer starts after the prompt for
    generating it, and ends where the conversation up to that answer ends. The renderer renders
    both, which must be prefixes of the whole text. If a template rewrites history, for example by
    dropping earlier reasoning, each answer becomes a separate example.
    """

    def __init__(self, template: ChatTemplate, encoder: TextEncoder) -> None:
        self.template = template
        self.encoder = encoder
        self._prompts = "add_generation_prompt" in template.source
        self._calls_tools = "tool_calls" in template.source
        self.takes_tools = re.search(r"\btools\b", template.source) is not None

    def encode(self, text: str) -> Tokens:
        """Return the tokens of a rendered text, without additional special tokens."""
        (tokens,) = self.encoder.encode([text])
        return tokens

    def text(self, messages: list[Message], tools: Any, *, prompt: bool = False) -> str:
        """Return the rendered messages, with marks before special tokens, or raise Unrenderable."""
        protected = self.encoder.protected
        try:
            return self.template.render(protected(messages), protected(tools), prompt=prompt)
        except ChatRefused as refusal:
            raise Unrenderable(readable(str(refusal))) from refusal

    def plain(self, conversation: dict[str, Any]) -> tuple[list[Message], Any]:
        """Return messages and tools for the template. Unsupported tools become a system text."""
        messages = [
            plain_message(message, self._calls_tools) for message in conversation["messages"]
        ]
        tools = conversation.get("tools") or None
        if tools is None or self.takes_tools:
            return messages, tools
        return with_tools_as_text(messages, tools), None

    def render(self, conversation: dict[str, Any]) -> list[Example]:
        """Return a conversation's examples, not truncated, with labels of assistant messages."""
        return [labeled(self.encode(marked.text), marked) for marked in self.marked(conversation)]

    def marked(self, conversation: dict[str, Any]) -> list[Marked]:
        """Return the marked text of each example of a conversation, or raise Unrenderable."""
        messages, tools = self.plain(conversation)
        added = len(messages) - len(conversation["messages"])
        trained = [
            index
            for index, message in enumerate(conversation["messages"], added)
            if message["role"] == "assistant" and message.get("weight", 1) != 0
        ]
        text = self.text(messages, tools)
        spans = [
            # The last answer usually ends the conversation, whose text is already rendered.
            self.answer(messages[: index + 1], tools, text if index + 1 == len(messages) else None)
            for index in trained
        ]
        if all(text.startswith(up_to_answer) for up_to_answer, _ in spans):
            return [Marked(text, [(start, len(part.rstrip())) for part, start in spans])]
        return [Marked(part, [(start, len(part.rstrip()))]) for part, start in spans]

    def prompt(self, conversation: dict[str, Any]) -> tuple[list[Message], str]:
        """Return the messages before the last answer, and their prompt, or raise Unrenderable."""
        messages, tools = self.plain(conversation)
        added = len(messages) - len(conversation["messages"])
        last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
        text, start = self.answer(messages[: last + 1], tools)
        return conversation["messages"][: last - added], text[:start]

    def answer(
        self, messages: list[Message], tools: Any, text: str | None = None
    ) -> tuple[str, int]:
        """Return the text of messages that end with an answer, and the start of the answer in it.

        `text` is that text if it is already rendered. Raise Unrenderable if the template rejects
        the messages.
        """
        text = self.text(messages, tools) if text is None else text
        if self._prompts:
            try:
                prompt = self.text(messages[:-1], tools, prompt=True)
            except Unrenderable:
                prompt = None  # some templates reject a prompt after a message with this role
            if prompt is not None and text.startswith(prompt):
                return text, len(prompt)
        # If another answer is rendered, the text differs only in the answer. Some templates omit
        # the content of an answer that has tool calls.
        answer = {key: value for key, value in messages[-1].items() if key != "tool_calls"}
        other = "\u2402" if not answer["content"].lstrip().startswith("\u2402") else "\u2403"
        probe = self.text([*messages[:-1], {**answer, "content": other}], tools)
        pairs = enumerate(zip(text, probe, strict=False))
        shared = next((i for i, (a, b) in pairs if a != b), min(len(text), len(probe)))
        # A space before the first word belongs to the word's token, so the model must predict it.
        return text, len(text[:shared].rstrip(" "))


def labeled(tokens: Tokens, marked: Marked) -> Example:
    """Return the example of a text's tokens. Tokens that start inside a span have a label."""
    text, spans = marked
    labels = [IGNORED] * len(tokens.ids)
    remaining = iter(spans)
    start, end = next(remaining, (len(text), len(text)))
    for position, (begin, finish) in enumerate(tokens.offsets):
        while begin >= end and start < len(text):
            start, end = next(remaining, (len(text), len(text)))
        if start <= begin < end and begin < finish:
            labels[position] = tokens.ids[position]
    # Four bytes per number instead of 32, because a trainer keeps the whole dataset in memory.
    return Example(array("i", tokens.ids), array("i", labels))
