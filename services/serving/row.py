"""One answer in the making: what it has read and said, and how it goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from infrastructure.generation import FinishReason
from services.serving.answer_text import AnswerText
from services.serving.sampler import Drawing

log = logging.getLogger("engine")


@dataclass(frozen=True)
class Grown:
    """More of an answer; `finish_reason` is set with the last of it."""

    text: str
    finish_reason: FinishReason | None
    completion_tokens: int


Listener = Callable[[Grown | Exception], None]
"""Hears how an answer grows, in the engine's thread; an exception is the last that it hears."""


@dataclass(eq=False)
class Row:
    """A prompt and its answer, as one sequence of tokens of which so many have been read."""

    account_id: UUID  # who asked
    adapter: str | None
    tokens: list[int]
    max_tokens: int  # of the answer
    ends: frozenset[int]
    text: AnswerText
    drawing: Drawing
    listener: Listener
    read: int = 0  # tokens whose keys and values are held
    stepped: int = 0  # number of the last step that it was part of
    cancelled: bool = False
    prompt_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.prompt_tokens = len(self.tokens)

    @property
    def unread(self) -> int:
        """Tokens to read before the next one is drawn."""
        return len(self.tokens) - self.read

    @property
    def answered(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - self.prompt_tokens

    def break_off(self, error: Exception) -> None:
        """Tell the listener that nothing more comes."""
        try:
            self.listener(error)
        except Exception:
            log.exception("who was answered does not listen")

    def say(self, token: int) -> bool:
        """Add the next token and tell the listener; returns whether the answer is complete."""
        self.tokens.append(token)
        ended = token in self.ends
        text = "" if ended else self.text.add(token)
        reason: FinishReason | None = None
        if ended or self.text.stopped:
            reason = "stop"
        elif self.answered >= self.max_tokens:
            reason = "length"
        if reason is not None:
            text += self.text.end()
        if text or reason is not None:
            self.listener(Grown(text, reason, self.answered))
        return reason is not None
