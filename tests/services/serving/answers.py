"""Send chats to an engine and wait for the answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Event
from typing import Any
from uuid import UUID, uuid5

from infrastructure.generation import GenerationRequest, TextDelta
from services.serving.engine import Engine, GenerationHandle

SPACE = UUID(int=5)
SECONDS = 30.0


@dataclass
class Answer:
    """Receives the deltas of one choice."""

    pieces: list[TextDelta] = field(default_factory=list)
    error: Exception | None = None
    asked: GenerationHandle | None = None
    ended: Event = field(default_factory=Event)
    begun: Event = field(default_factory=Event)

    def listen(self, grown: TextDelta | Exception) -> None:
        if isinstance(grown, Exception):
            self.error = grown
        else:
            self.pieces.append(grown)
        self.begun.set()
        if self.error is not None or self.pieces[-1].finish_reason is not None:
            self.ended.set()

    def wait(self) -> Answer:
        assert self.ended.wait(SECONDS)
        return self

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def tokens(self) -> list[int]:
        """Tokens of the answer, with its end token."""
        assert self.asked is not None
        return self.asked.rows[0].tokens[self.asked.prompt_tokens :]

    @property
    def finish_reason(self) -> str | None:
        return self.pieces[-1].finish_reason


@dataclass
class Answers:
    """Sends chats to an engine."""

    engine: Engine

    def ask(self, name: str, question: str, **options: Any) -> Answer:
        """Start one answer, greedy by default."""
        (answer,) = self.ask_for(1, name, question, **options)
        return answer

    def ask_for(self, choices: int, name: str, question: str, **options: Any) -> list[Answer]:
        given: list[Answer] = [Answer() for _ in range(choices)]
        asked = GenerationRequest(
            deployment_id=uuid5(SPACE, name),
            messages=[{"role": "user", "content": question}],
            choices=choices,
            **{"account_id": SPACE, "temperature": 0.0, **options},
        )

        def listen(piece: TextDelta | Exception) -> None:
            heard = given if isinstance(piece, Exception) else [given[piece.choice]]
            for answer in heard:
                answer.listen(piece)

        begun = self.engine.generate(asked, listen)
        for answer in given:
            answer.asked = begun
        return given
