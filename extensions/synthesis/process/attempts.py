"""The stored attempts of a synthesis.

An answer is stored before anything else happens with it, and never replaced. After a crash, the
process reads it instead of asking again, so that no stored answer is paid twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import ValidationError

from domain.billing.token_rates import TokenUsage
from domain.core.value import Value
from extensions.synthesis.domain.demonstrations import Message
from extensions.synthesis.domain.prompts import Drawn
from extensions.synthesis.domain.synthesis import Counts, StoredFile, Synthesis
from infrastructure.artifacts.store import Artifacts


class Outcome(StrEnum):
    """Outcomes of an attempt."""

    ACCEPTED = "accepted"
    INVALID = "invalid"
    REJECTED = "rejected"
    DUPLICATE = "duplicate"


class Asked(Value):
    """A prompt, and the model and parameters with which it was asked."""

    prompt_sha256: str
    model: str  # name of the deployed model, or `external`
    weights_sha256: tuple[str, ...]  # manifests of the base and the adapter; empty: external
    temperature: float
    top_p: float
    seed: int


class Answer(Value):
    """The model's answer to an attempt."""

    number: int  # of the attempt, from 0
    drawn: Drawn
    asked: Asked
    text: str
    finish_reason: str | None
    usage: TokenUsage


class Judgement(Value):
    """The judge's answer to an attempt."""

    prompt_sha256: str
    text: str
    usage: TokenUsage
    score: int | None  # None: not readable


class Attempt(Value):
    """A finished attempt. `problem` says why an answer is invalid."""

    answer: Answer
    judgement: Judgement | None
    outcome: Outcome
    problem: str | None
    messages: tuple[Message, ...] | None

    @property
    def number(self) -> int:
        """Number of the attempt, from 0."""
        return self.answer.number

    @property
    def usage(self) -> TokenUsage:
        """Tokens of the answer and of its judgement."""
        usage = self.answer.usage
        return usage if self.judgement is None else usage + self.judgement.usage

    @property
    def line(self) -> bytes:
        """The example as a line of a dataset."""
        return json.dumps({"messages": self.messages}, ensure_ascii=False).encode() + b"\n"


def counted(attempts: Sequence[Attempt]) -> tuple[Counts, TokenUsage]:
    """Return the numbers of outcomes, and the tokens of all attempts."""
    numbers = dict.fromkeys(Outcome, 0)
    usage = TokenUsage()
    for each in attempts:
        numbers[each.outcome] += 1
        usage += each.usage
    counts = Counts(
        accepted=numbers[Outcome.ACCEPTED],
        invalid=numbers[Outcome.INVALID],
        rejected=numbers[Outcome.REJECTED],
        duplicates=numbers[Outcome.DUPLICATE],
    )
    return counts, usage


def accepted_in(attempts: Iterable[Attempt]) -> Iterator[Attempt]:
    """Yield the accepted attempts."""
    return (each for each in attempts if each.outcome is Outcome.ACCEPTED)


class BatchDamaged(Exception):
    """A stored batch is missing, or differs from the hash in its event."""


class AttemptStore:
    """The files of one synthesis."""

    def __init__(self, artifacts: Artifacts, synthesis: Synthesis) -> None:
        self._artifacts = artifacts
        self._home = synthesis.home

    def batches(self, files: Sequence[StoredFile]) -> Iterator[list[Attempt]]:
        """Yield the attempts of each completed batch. Raise BatchDamaged."""
        for file in files:
            try:
                content = self._artifacts.get(file.ref)
            except FileNotFoundError as error:
                raise BatchDamaged(f"{file.ref} is missing.") from error
            if hashlib.sha256(content).hexdigest() != file.sha256:
                raise BatchDamaged(f"{file.ref} differs from its hash.")
            yield [Attempt.model_validate_json(line) for line in content.splitlines()]

    def loose(self, known: set[int]) -> tuple[dict[int, Answer], dict[int, Attempt]]:
        """Return the answers and finished attempts that are in no completed batch, by number."""
        answers: dict[int, Answer] = {}
        attempts: dict[int, Attempt] = {}
        for ref in self._artifacts.list(f"{self._home}/attempts"):
            number, kind, _ = ref.rsplit("/", 1)[1].split(".")
            if int(number) in known:
                continue
            content = self._artifacts.get(ref)
            if kind == "answer":
                answers[int(number)] = Answer.model_validate_json(content)
            else:
                attempts[int(number)] = Attempt.model_validate_json(content)
        return answers, attempts

    def of_open_batch(self, files: Sequence[StoredFile]) -> list[Attempt]:
        """Return its finished attempts; none if a completed batch, maybe billed, is lost."""
        try:
            known = {each.number for batch in self.batches(files) for each in batch}
            return list(self.loose(known)[1].values())
        except (BatchDamaged, ValidationError):
            return []

    def keep_answer(self, answer: Answer) -> Answer:
        """Store an answer. Return the stored one, if there is one already."""
        ref = self._ref(answer.number, "answer")
        if self._artifacts.create(ref, answer.model_dump_json().encode()):
            return answer
        return Answer.model_validate_json(self._artifacts.get(ref))

    def keep_attempt(self, attempt: Attempt) -> Attempt:
        """Store a finished attempt. Return the stored one, if there is one already."""
        ref = self._ref(attempt.number, "attempt")
        if self._artifacts.create(ref, attempt.model_dump_json().encode()):
            return attempt
        return Attempt.model_validate_json(self._artifacts.get(ref))

    def keep_batch(self, batch: int, attempts: Sequence[Attempt]) -> StoredFile:
        """Store the attempts of a batch, in the order of their numbers."""
        ordered = sorted(attempts, key=lambda each: each.number)
        content = b"".join(each.model_dump_json().encode() + b"\n" for each in ordered)
        return self._keep(f"batches/{batch:05d}.jsonl", content)

    def keep_examples(self, files: Sequence[StoredFile]) -> StoredFile:
        """Store the accepted examples of batches as the lines of a dataset. Raise BatchDamaged."""
        return self._keep_lines("examples.jsonl", (each.line for each in self._accepted(files)))

    def keep_provenance(self, header: dict[str, object], files: Sequence[StoredFile]) -> StoredFile:
        """Store a header and each example's origin, in order, or raise BatchDamaged."""
        documents = chain([header], self._origins(files))
        lines = (json.dumps(each, sort_keys=True).encode() + b"\n" for each in documents)
        return self._keep_lines("provenance.jsonl", lines)

    def _accepted(self, files: Sequence[StoredFile]) -> Iterator[Attempt]:
        return accepted_in(chain.from_iterable(self.batches(files)))

    def _origins(self, files: Sequence[StoredFile]) -> Iterator[dict[str, object]]:
        for number, each in enumerate(self._accepted(files), 1):
            yield {
                "example": number,
                "example_sha256": hashlib.sha256(each.line).hexdigest(),
                "attempt": each.number,
                "drawn": each.answer.drawn.model_dump(mode="json"),
                "asked": each.answer.asked.model_dump(mode="json"),
                "usage": each.usage.model_dump(),
                "score": None if each.judgement is None else each.judgement.score,
            }

    def forget(self, attempts: Sequence[Attempt]) -> None:
        """Delete the single files of attempts that a completed batch contains."""
        for each in attempts:
            self._artifacts.delete(self._ref(each.number, "answer"))
            self._artifacts.delete(self._ref(each.number, "attempt"))

    def _keep(self, name: str, content: bytes) -> StoredFile:
        ref = f"{self._home}/{name}"
        self._artifacts.put(ref, content)
        return StoredFile(ref=ref, sha256=hashlib.sha256(content).hexdigest())

    def _keep_lines(self, name: str, lines: Iterable[bytes]) -> StoredFile:
        ref, digest = f"{self._home}/{name}", hashlib.sha256()
        with TemporaryDirectory() as folder:
            path = Path(folder) / name
            with path.open("wb") as file:
                for line in lines:
                    file.write(line)
                    digest.update(line)
            self._artifacts.put_file(ref, path)
        return StoredFile(ref=ref, sha256=digest.hexdigest())

    def _ref(self, number: int, kind: str) -> str:
        return f"{self._home}/attempts/{number:06d}.{kind}.json"
