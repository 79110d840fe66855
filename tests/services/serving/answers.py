"""Models in an engine, and the answers to chats."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any
from uuid import UUID, uuid5

from infrastructure.chat.generation import GenerationRequest, TextDelta
from services.serving.batch import Batch
from services.serving.deployed import Served
from services.serving.engine import Engine, GenerationHandle

SPACE = UUID(int=5)
SECONDS = 30.0


def deployment_of(name: str) -> UUID:
    return uuid5(SPACE, name)


@dataclass
class Answer:
    """The pieces of one choice."""

    pieces: list[TextDelta] = field(default_factory=list)
    error: Exception | None = None
    handle: GenerationHandle = field(init=False)
    ended: Event = field(default_factory=Event)
    begun: Event = field(default_factory=Event)

    def listen(self, piece: TextDelta | Exception) -> None:
        if isinstance(piece, Exception):
            self.error = piece
        else:
            self.pieces.append(piece)
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
        """Return the tokens of the answer, with its end token."""
        return self.handle.rows[0].tokens[self.handle.prompt_tokens :]

    @property
    def finish_reason(self) -> str | None:
        return self.pieces[-1].finish_reason


@dataclass
class Answers:
    """Attaches models on one base to an engine, and sends chats to them."""

    engine: Engine
    base: Path

    @property
    def batch(self) -> Batch:
        """Return the batch of the base."""
        (batch,) = self.engine._batches.values()
        return batch

    def attach(self, name: str = "base", adapter: Path | None = None) -> None:
        served = Served(deployment_of(name), name, "tiny", "11", self.base, adapter)
        self.engine.attach(served)

    def detach(self, name: str) -> None:
        self.engine.detach(deployment_of(name))

    def ask(self, name: str, question: str, **options: Any) -> Answer:
        """Start one answer, greedy by default."""
        (answer,) = self.ask_for(1, name, question, **options)
        return answer

    def ask_for(self, choices: int, name: str, question: str, **options: Any) -> list[Answer]:
        given = [Answer() for _ in range(choices)]
        request = GenerationRequest(
            deployment_id=deployment_of(name),
            messages=[{"role": "user", "content": question}],
            choices=choices,
            **{"account_id": SPACE, "temperature": 0.0, **options},
        )

        def listen(piece: TextDelta | Exception) -> None:
            for answer in given if isinstance(piece, Exception) else [given[piece.choice]]:
                answer.listen(piece)

        handle = self.engine.generate(request, listen)
        for answer in given:
            answer.handle = handle
        return given
