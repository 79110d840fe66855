"""Rendering a dataset with the training library's tokenizer, and what is left out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from infrastructure.chat_labels import ChatRenderer, Example, Message, Tokens, Unrenderable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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


class Renderer(ChatRenderer):
    """Renders conversations with a tokenizer's chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        template = tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("default")
        self.uses_fallback = not template
        super().__init__(template)

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
            examples = [example.truncated(self.max_tokens) for example in examples]
            examples = [example for example in examples if example.label_tokens > 0]
            if examples:
                rendered.conversations.append(examples)
                rendered.rows.append(row)
            else:
                rendered.without_labels += 1
        return rendered

    def text(self, messages: list[Message], tools: Any, *, prompt: bool = False) -> str:
        """What the template makes of messages; raises Unrenderable."""
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

    def encode(self, text: str) -> Tokens:
        """The tokens of a text; the template has written the special ones itself."""
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return Tokens(encoding["input_ids"], encoding["offset_mapping"])
