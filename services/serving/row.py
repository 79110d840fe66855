"""One answer in progress."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from infrastructure.chat.generation import FinishReason, TextDelta, ToolCall
from services.serving.grammar import Grammar
from services.serving.response_text import ResponseText
from services.serving.sampler import Sampler
from services.serving.tool_calls import CallReader

log = logging.getLogger("engine")


Listener = Callable[[TextDelta | Exception], None]
"""A function that receives text in the engine's thread. An exception ends the chat."""


@dataclass(eq=False)
class Row:
    """A prompt and its answer, as one sequence of tokens.

    The KV cache contains the first `read` tokens.
    """

    account_id: UUID  # account of the request
    choice: int  # number of the answer in its chat
    adapter: str | None
    tokens: list[int]
    max_tokens: int  # maximum tokens of the answer
    ends: frozenset[int]
    text: ResponseText
    sampler: Sampler
    listener: Listener
    calls: CallReader | None = None  # None: the request defines no tools
    grammar: Grammar | None = None  # None: any text
    read: int = 0  # number of tokens in the KV cache
    stepped: int = 0  # number of the last step that processed the row
    cancelled: bool = False
    prompt_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.prompt_tokens = len(self.tokens)

    @property
    def unread(self) -> int:
        """Number of tokens to process before the next one is sampled."""
        return len(self.tokens) - self.read

    @property
    def answered(self) -> int:
        """Number of tokens generated so far."""
        return len(self.tokens) - self.prompt_tokens

    def fail(self, error: Exception) -> None:
        """Pass an error to the listener."""
        try:
            self.listener(error)
        except Exception:
            log.exception("a listener failed")

    def append(self, token: int) -> bool:
        """Append the next token and call the listener. Return True if the answer is complete."""
        self.tokens.append(token)
        complete = self.grammar is not None and self.grammar.advance(token)
        at_end = token in self.ends
        text = "" if at_end else self.text.add(token)
        reason: FinishReason | None = None
        if at_end or complete or self.text.stopped:
            reason = "stop"
        elif self.answered >= self.max_tokens:
            reason = "length"
        if reason is not None:
            self._end(text + self.text.end(), reason)
            return True
        if self.calls is not None:
            text = self.calls.add(text)
        if text:
            self.listener(TextDelta(choice=self.choice, text=text))
        return False

    def _end(self, text: str, reason: FinishReason) -> None:
        """Pass the last text, which may complete tool calls, to the listener."""
        calls: list[ToolCall] = []
        if self.calls is not None:
            text = self.calls.add(text)
            rest, calls = self.calls.end()
            text += rest
        self.listener(
            TextDelta(
                choice=self.choice,
                text=text,
                finish_reason="tool_calls" if calls else reason,
                completion_tokens=self.answered,
                tool_calls=calls or None,
            )
        )
