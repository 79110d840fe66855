"""From a conversation to token ids and labels: what a model reads, and what it learns to say.

One rule for the trainer, which learns from them, and for the pages that show what it will learn.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from infrastructure.chat_template import plain_message
from infrastructure.template_rendering import ChatRefused, ChatTemplate
from infrastructure.text_encoder import Span, TextEncoder, Tokens, readable

IGNORED = -100  # label of a token that carries no loss, as in torch's cross entropy

Message = dict[str, Any]


class Unrenderable(Exception):
    """The chat template refuses the conversation, or cannot tell where an answer begins."""


@dataclass(frozen=True)
class Example:
    """Token ids and, of equal length, labels: the token's own id, or IGNORED."""

    input_ids: Sequence[int]
    labels: Sequence[int]

    @property
    def label_tokens(self) -> int:
        """Tokens that carry loss; the first token of a sequence is never predicted."""
        return len(self.label_positions)

    @property
    def label_positions(self) -> list[int]:
        """Positions, from 1, of the tokens that carry loss; position 1 is never predicted."""
        return [n for n, label in enumerate(self.labels[1:], 2) if label != IGNORED]

    def truncated(self, max_tokens: int) -> Example:
        """The first `max_tokens` tokens."""
        return Example(self.input_ids[:max_tokens], self.labels[:max_tokens])


class Marked(NamedTuple):
    """A text to read, and the spans of it that are to be learnt, in order."""

    text: str
    spans: list[Span]


class ChatRenderer:
    """Renders conversations with a chat template and marks what the assistant says.

    Templates need no generation marks. An answer's span of text lies between the prompt that
    generation would get at that point and the end of the conversation up to that answer; both are
    rendered, and both must be prefixes of the whole. A template that rewrites history (by
    dropping old reasoning, say) gets one example per answer instead, each as it is at generation.
    """

    def __init__(self, template: ChatTemplate, encoder: TextEncoder) -> None:
        self.template = template
        self.encoder = encoder
        self._prompts = "add_generation_prompt" in template.source
        self._calls_tools = "tool_calls" in template.source

    def encode(self, text: str) -> Tokens:
        """The tokens of a rendered text, to which no special ones are added."""
        (tokens,) = self.encoder.encode([text])
        return tokens

    def text(self, messages: list[Message], tools: Any, *, prompt: bool = False) -> str:
        """What the template makes of messages, special tokens in them marked as text.

        Raises Unrenderable.
        """
        protected = self.encoder.protected
        try:
            return self.template.render(protected(messages), protected(tools), prompt=prompt)
        except ChatRefused as refusal:
            raise Unrenderable(readable(str(refusal))) from refusal

    def plain(self, conversation: dict[str, Any]) -> list[Message]:
        """A conversation's messages as the template gets them."""
        return [plain_message(message, self._calls_tools) for message in conversation["messages"]]

    def render(self, conversation: dict[str, Any]) -> list[Example]:
        """Examples of one conversation (`messages`, optional `tools`), not truncated.

        Only assistant messages carry labels, up to and with their end token; `weight: 0` leaves a
        message out. Raises Unrenderable.
        """
        return [labelled(self.encode(marked.text), marked) for marked in self.marked(conversation)]

    def marked(self, conversation: dict[str, Any]) -> list[Marked]:
        """The text of each example of a conversation; raises Unrenderable."""
        messages = self.plain(conversation)
        trained = [
            index
            for index, message in enumerate(conversation["messages"])
            if message["role"] == "assistant" and message.get("weight", 1) != 0
        ]
        tools = conversation.get("tools")
        text = self.text(messages, tools)
        spans = [
            # The last answer usually ends the conversation, whose text is there already.
            self.answer(messages[: index + 1], tools, text if index + 1 == len(messages) else None)
            for index in trained
        ]
        if all(text.startswith(up_to_answer) for up_to_answer, _ in spans):
            return [Marked(text, [(start, len(part.rstrip())) for part, start in spans])]
        return [Marked(part, [(start, len(part.rstrip()))]) for part, start in spans]

    def prompt(self, conversation: dict[str, Any]) -> tuple[list[Message], str]:
        """The messages before a conversation's last answer, and the text that asks for it.

        Raises Unrenderable.
        """
        messages = self.plain(conversation)
        last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
        text, start = self.answer(messages[: last + 1], conversation.get("tools"))
        return conversation["messages"][:last], text[:start]

    def answer(
        self, messages: list[Message], tools: Any, text: str | None = None
    ) -> tuple[str, int]:
        """The text up to the last message, an answer, and the character where it begins.

        `text` is that text, if the caller has it. Raises Unrenderable.
        """
        text = self.text(messages, tools) if text is None else text
        if self._prompts:
            try:
                prompt = self.text(messages[:-1], tools, prompt=True)
            except Unrenderable:
                prompt = None  # some templates refuse to end on this role
            if prompt is not None and text.startswith(prompt):
                return text, len(prompt)
        # The same answer with other words shares everything but the words.
        content = messages[-1]["content"]
        other = "\u2402" if not content.lstrip().startswith("\u2402") else "\u2403"
        probe = self.text([*messages[:-1], {**messages[-1], "content": other}], tools)
        shared = _shared_characters(text, probe)
        # A space before the first word is in the word's token, so that the model has to say it.
        return text, len(text[:shared].rstrip(" "))


def labelled(tokens: Tokens, marked: Marked) -> Example:
    """The example that a text's tokens make; those that begin inside a span carry their label."""
    text, spans = marked
    labels = [IGNORED] * len(tokens.ids)
    remaining = iter(spans)
    start, end = next(remaining, (len(text), len(text)))
    for position, (begin, finish) in enumerate(tokens.offsets):
        while begin >= end and start < len(text):
            start, end = next(remaining, (len(text), len(text)))
        if start <= begin < end and begin < finish:
            labels[position] = tokens.ids[position]
    # Four bytes a number, where a Python object has 32: a trainer keeps all of a dataset's.
    return Example(array("i", tokens.ids), array("i", labels))


def _shared_characters(one: str, other: str) -> int:
    """Characters that two texts have in common from their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
