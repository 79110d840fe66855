"""From a conversation to token ids and labels: what the model reads, and what it learns to say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from infrastructure.chat_template import FALLBACK_CHAT_TEMPLATE, plain_message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # label of a token that carries no loss, as in torch's cross entropy

Message = dict[str, Any]


class Unrenderable(Exception):
    """The chat template refuses the conversation, or cannot tell where an answer begins."""


@dataclass(frozen=True)
class Example:
    """Token ids and, of equal length, labels: the token's own id, or IGNORED."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def label_tokens(self) -> int:
        """Tokens that carry loss; the first token of a sequence is never predicted."""
        return sum(label != IGNORED for label in self.labels[1:])


@dataclass
class Rendered:
    """Examples by conversation (its index in the dataset), and what was left out."""

    conversations: list[list[Example]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)  # numbers of the conversations' rows, from 0
    truncated: int = 0
    without_labels: int = 0
    unrenderable: int = 0

    def __str__(self) -> str:
        return (
            f"{len(self.conversations)} conversations; dropped {self.without_labels} without a "
            f"label token and {self.unrenderable} that the chat template refuses; "
            f"{self.truncated} truncated"
        )


class Renderer:
    """Renders conversations with a tokenizer's chat template and marks the assistant's tokens.

    Templates need no generation marks. An answer's span of text lies between the prompt that
    generation would get at that point and the end of the conversation up to that answer; both are
    rendered, and both must be prefixes of the whole. A template that rewrites history (by
    dropping old reasoning, say) gets one example per answer instead, each as it is at generation.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        template = tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("default")
        self.uses_fallback = not template
        self.template: str = template or FALLBACK_CHAT_TEMPLATE
        self._prompts = "add_generation_prompt" in self.template
        self._calls_tools = "tool_calls" in self.template

    def render_all(
        self, conversations: Iterable[dict[str, Any]], check: Callable[[], None]
    ) -> Rendered:
        """Render a dataset's rows; `check` is called before each and may raise to stop."""
        rendered = Rendered()
        for row, conversation in enumerate(conversations):
            check()
            try:
                examples = self.render(conversation)
            except Unrenderable:
                rendered.unrenderable += 1
                continue
            rendered.truncated += any(len(e.input_ids) > self.max_tokens for e in examples)
            examples = [self._truncate(example) for example in examples]
            examples = [example for example in examples if example.label_tokens > 0]
            if examples:
                rendered.conversations.append(examples)
                rendered.rows.append(row)
            else:
                rendered.without_labels += 1
        return rendered

    def render(self, conversation: dict[str, Any]) -> list[Example]:
        """Examples of one conversation (`messages`, optional `tools`), not truncated.

        Only assistant messages carry labels, up to and with their end token; `weight: 0` leaves a
        message out. Raises Unrenderable.
        """
        messages = [
            plain_message(message, self._calls_tools) for message in conversation["messages"]
        ]
        trained = [
            index
            for index, message in enumerate(conversation["messages"])
            if message["role"] == "assistant" and message.get("weight", 1) != 0
        ]
        tools = conversation.get("tools")
        text = self._text(messages, tools)
        spans = [
            # The last answer usually ends the conversation, whose text is there already.
            self._span(messages[: index + 1], tools, text if index + 1 == len(messages) else None)
            for index in trained
        ]
        if all(text.startswith(up_to_answer) for up_to_answer, _ in spans):
            return [self._tokenize(text, [(start, len(part.rstrip())) for part, start in spans])]
        return [self._tokenize(part, [(start, len(part.rstrip()))]) for part, start in spans]

    def prompt(self, conversation: dict[str, Any]) -> tuple[list[Message], str]:
        """The messages before a conversation's last answer, and the text that asks for it.

        Raises Unrenderable.
        """
        messages = [
            plain_message(message, self._calls_tools) for message in conversation["messages"]
        ]
        last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
        text, start = self._span(messages[: last + 1], conversation.get("tools"))
        return conversation["messages"][:last], text[:start]

    def _span(
        self, messages: list[Message], tools: Any, text: str | None = None
    ) -> tuple[str, int]:
        """The text up to the last message, an answer, and the character where it begins.

        `text` is that text, if the caller has it.
        """
        text = self._text(messages, tools) if text is None else text
        if self._prompts:
            try:
                prompt = self._text(messages[:-1], tools, prompt=True)
            except Unrenderable:
                prompt = None  # some templates refuse to end on this role
            if prompt is not None and text.startswith(prompt):
                return text, len(prompt)
        # The same answer with other words shares everything but the words.
        content = messages[-1]["content"]
        other = "\u2402" if not content.lstrip().startswith("\u2402") else "\u2403"
        probe = self._text([*messages[:-1], {**messages[-1], "content": other}], tools)
        shared = _shared_characters(text, probe)
        # A space before the first word is in the word's token, so that the model has to say it.
        return text, len(text[:shared].rstrip(" "))

    def _text(self, messages: list[Message], tools: Any, *, prompt: bool = False) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                messages,
                tools=tools,
                chat_template=self.template,
                add_generation_prompt=prompt,
                tokenize=False,
            )
        except (TemplateError, TypeError, ValueError, KeyError, IndexError) as error:
            raise Unrenderable(str(error)) from error
        assert isinstance(text, str)
        return text

    def _tokenize(self, text: str, spans: list[tuple[int, int]]) -> Example:
        """Token ids of a rendered text; tokens that begin inside a span carry their label."""
        # The template has written the special tokens itself.
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        input_ids: list[int] = encoding["input_ids"]
        labels = [IGNORED] * len(input_ids)
        remaining = iter(spans)
        start, end = next(remaining, (len(text), len(text)))
        for position, (begin, finish) in enumerate(encoding["offset_mapping"]):
            while begin >= end and start < len(text):
                start, end = next(remaining, (len(text), len(text)))
            if start <= begin < end and begin < finish:
                labels[position] = input_ids[position]
        return Example(tuple(input_ids), tuple(labels))

    def _truncate(self, example: Example) -> Example:
        """The first `max_tokens` tokens."""
        return Example(example.input_ids[: self.max_tokens], example.labels[: self.max_tokens])


def _shared_characters(one: str, other: str) -> int:
    """Characters that two texts have in common from their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
