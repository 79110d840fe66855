"""Rendering of a dataset with the tokenizer of the base model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date
from itertools import islice
from typing import TYPE_CHECKING, Any

from infrastructure.chat.chat_labels import ChatRenderer, Example, Marked, Unrenderable, labeled
from infrastructure.chat.chat_template import FALLBACK_CHAT_TEMPLATE
from infrastructure.chat.template_rendering import ChatTemplate, one_template
from infrastructure.chat.text_encoder import TextEncoder
from infrastructure.datasets.preference_columns import conversations_of, is_pair
from services.model_libraries import core_of
from services.trainer.pairs import Item, Pair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROWS_AT_ONCE = 64
"""Number of conversations that are tokenized together. It is enough for many cores."""


@dataclass
class Rendered:
    """The examples of each row, and the numbers of dropped ones.

    A chat has one example, or several if the template rewrites earlier messages. A preference pair
    is one example.
    """

    conversations: list[list[Item]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)  # row number of each conversation, from 0
    truncated: int = 0
    without_labels: int = 0
    unrenderable: int = 0

    def take(self, row: int, examples: list[Example], max_tokens: int) -> None:
        """Truncate and add the examples of a chat. Drop those without a trainable token."""
        self.truncated += any(len(example.input_ids) > max_tokens for example in examples)
        cut = [example.truncated(max_tokens) for example in examples]
        if taught := [example for example in cut if example.label_tokens > 0]:
            self._add(row, list(taught))
        else:
            self.without_labels += 1

    def take_pair(self, row: int, pair: Pair, max_tokens: int) -> None:
        """Truncate and add a pair. Drop it if one of its answers keeps no trainable token."""
        both = (pair.chosen, pair.rejected)
        self.truncated += any(len(each.input_ids) > max_tokens for each in both)
        cut = Pair(*(each.truncated(max_tokens) for each in both))
        if all(each.label_tokens > 0 for each in (cut.chosen, cut.rejected)):
            self._add(row, [cut])
        else:
            self.without_labels += 1

    def _add(self, row: int, examples: list[Item]) -> None:
        self.conversations.append(examples)
        self.rows.append(row)

    def __str__(self) -> str:
        count = len(self.conversations)
        return (
            f"{count:,} {'conversation' if count == 1 else 'conversations'}, "
            f"{self.truncated:,} truncated; dropped: {self.dropped}"
        )

    @property
    def dropped(self) -> str:
        """The number of dropped rows by reason, as a phrase."""
        return (
            f"{self.without_labels:,} without a trainable token, {self.unrenderable:,} rejected by "
            "the chat template"
        )


class Renderer(ChatRenderer):
    """A renderer of conversations with the chat template of a tokenizer.

    `today` is the date for templates that insert one, so that the examples of a job do not depend
    on the day. If it is None, templates use the date of the rendering.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_tokens: int, today: date | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        source = tokenizer.chat_template
        if isinstance(source, dict):
            source = one_template(source)
        self.uses_fallback = not source
        tokens = tokenizer.special_tokens_map
        super().__init__(
            ChatTemplate(source or FALLBACK_CHAT_TEMPLATE, tokens, today),
            TextEncoder(core_of(tokenizer)),
        )

    def render_all(
        self, conversations: Iterable[dict[str, Any]], check: Callable[[], None]
    ) -> Rendered:
        """Render the rows of a dataset. `check`, which may raise an error, runs before each row."""
        rendered, rows = Rendered(), enumerate(conversations)
        while several := list(islice(rows, ROWS_AT_ONCE)):
            marked = [self._marked(conversation, check) for _, conversation in several]
            texts = [each.text for parts in marked for each in parts or ()]
            tokens = iter(self.encoder.encode(texts))
            rows_of = dict(several)
            for row, parts in zip(rows_of, marked, strict=True):
                if parts is None:
                    rendered.unrenderable += 1
                elif is_pair(rows_of[row]):
                    both = [labeled(next(tokens), each) for each in parts]
                    rendered.take_pair(row, Pair(*both), self.max_tokens)
                else:
                    examples = [labeled(next(tokens), each) for each in parts]
                    rendered.take(row, examples, self.max_tokens)
        return rendered

    def _marked(
        self, conversation: dict[str, Any], check: Callable[[], None]
    ) -> list[Marked] | None:
        """Return the texts of a row's sequences, or None if the template rejects one."""
        check()
        try:
            if is_pair(conversation):
                return [self.marked(each)[-1] for each in conversations_of(conversation)]
            return self.marked(conversation)
        except Unrenderable:
            return None
