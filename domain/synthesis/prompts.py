"""The prompts of a synthesis: functions of the plan, its material and the number of the attempt.

The material rotates: attempt n uses topic n, document part n and two seed examples. A persona and a
style, drawn from the plan's seed, vary the rest.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from domain.core.value import Value
from domain.synthesis.plan import BEST_SCORE, SynthesisPlan
from domain.synthesis.price import JUDGE_BYTES, PromptBytes
from domain.synthesis.request import SynthesisRequest

PART_CHARACTERS = 2_400
"""Most characters of a part of a document in one prompt."""

SEEDS_SHOWN, SEED_CHARACTERS = 2, 1_200
"""Seed examples in one prompt, and the most characters of each."""

PERSONAS = (
    *("a beginner who has never done this", "an expert who wants precise details"),
    *("a busy manager who wants a short answer", "a student who prepares for an exam"),
    *("a customer who is frustrated", "a curious person who asks why"),
    *("a developer who wants an example", "a person who writes informally"),
    *("a careful person who checks facts", "a person who compares two options"),
)
STYLES = (
    *("a direct question", "a question with some background", "a request for step-by-step help"),
    *("a request for an explanation", "a request for an example", "a question about a mistake"),
    *("a short question of a few words", "a detailed question of several sentences"),
)

WRITER = (
    "You write training examples for a chat assistant. Write one realistic chat between a user and "
    "an assistant. The assistant answers correctly, completely and politely. Answer only with JSON "
    'of the form {"turns": [{"user": "...", "assistant": "..."}]}.'
)
JUDGE = (
    "You judge training examples for a chat assistant. Give a score from 1 (useless) to 10 "
    "(excellent) for how correct, helpful and natural the assistant's answers are, and how well "
    'they fit the task. Answer only with JSON of the form {"score": 7}.'
)
CUT = "…"

Message = dict[str, str]


class Drawn(Value):
    """The material of one attempt. Numbers count from 0."""

    topic: int | None
    document: int | None
    offset: int | None  # of the document's part, in characters
    seeds: tuple[int, ...]
    persona: int
    style: int
    turns: int
    seed: int  # of the sampler


@dataclass(frozen=True)
class Part:
    """A part of a document."""

    document: int
    offset: int
    text: str


@dataclass(frozen=True)
class Prompts:
    """The prompts of a plan. `seeds` are the seed examples as JSON, already shortened."""

    plan: SynthesisPlan
    request: SynthesisRequest
    parts: Sequence[Part]
    seeds: Sequence[str]

    @classmethod
    def of(
        cls, plan: SynthesisPlan, request: SynthesisRequest, seeds: Sequence[dict[str, Any]] = ()
    ) -> Prompts:
        """Return the prompts with the parts of all documents, and the seed examples."""
        parts = [
            Part(number, offset, text)
            for number, document in enumerate(request.documents)
            for offset, text in _parts_of(document.text)
        ]
        return cls(plan, request, parts, [_shown(each) for each in seeds])

    def drawn(self, attempt: int) -> Drawn:
        """Return the material of an attempt, counted from 0."""
        chance = random.Random(f"{self.plan.seed}:{attempt}")
        part = self.parts[attempt % len(self.parts)] if self.parts else None
        count = len(self.seeds)
        return Drawn(
            topic=attempt % len(self.request.topics) if self.request.topics else None,
            document=None if part is None else part.document,
            offset=None if part is None else part.offset,
            seeds=tuple(chance.sample(range(count), min(SEEDS_SHOWN, count))),
            persona=chance.randrange(len(PERSONAS)),
            style=chance.randrange(len(STYLES)),
            turns=chance.randint(1, self.plan.turns),
            seed=chance.randrange(2**31),
        )

    def write(self, drawn: Drawn) -> list[Message]:
        """Return the prompt that asks for a chat."""
        request = self.request
        lines = [f"Task: {request.instructions}"] if request.instructions else []
        if drawn.topic is not None:
            lines.append(f"Topic: {request.topics[drawn.topic]}")
        if drawn.offset is not None:
            (part,) = [
                each
                for each in self.parts
                if (each.document, each.offset) == (drawn.document, drawn.offset)
            ]
            lines.append(f"The chat must follow from this text:\n{part.text}")
        if drawn.seeds:
            lines.append("Examples of the wanted form and tone. Do not copy them:")
            lines += [self.seeds[number] for number in drawn.seeds]
        questions = "1 question" if drawn.turns == 1 else f"{drawn.turns} questions in turn"
        lines.append(
            f"The user is {PERSONAS[drawn.persona]} and begins with {STYLES[drawn.style]}. "
            f"The user asks {questions}."
        )
        return [
            {"role": "system", "content": WRITER},
            {"role": "user", "content": "\n\n".join(lines)},
        ]

    def judge(self, drawn: Drawn, turns: Sequence[Message]) -> list[Message]:
        """Return the prompt that asks for a score of a chat."""
        request = self.request
        lines = [f"Task: {_cut(request.instructions, 1_000)}"] if request.instructions else []
        if drawn.topic is not None:
            lines.append(f"Topic: {request.topics[drawn.topic]}")
        lines.append("Chat:")
        for turn in turns:
            lines += [f"User: {turn['user']}", f"Assistant: {turn['assistant']}"]
        room = JUDGE_BYTES - len(JUDGE.encode())
        return [
            {"role": "system", "content": JUDGE},
            {"role": "user", "content": _cut_bytes("\n\n".join(lines), room)},
        ]

    def sizes(self) -> PromptBytes:
        """Return the sizes of the shortest and the longest prompt."""
        request = self.request
        fixed = len(WRITER.encode()) + len(request.instructions.encode()) + 300
        topics = [len(each.encode()) for each in request.topics] or [0]
        parts = [len(each.text.encode()) for each in self.parts] or [0]
        seeds = sorted(len(each.encode()) for each in self.seeds)
        shown = min(SEEDS_SHOWN, len(seeds))
        return PromptBytes(
            shortest=fixed - 200 + min(topics) + min(parts) + sum(seeds[:shown]),
            longest=fixed + 300 + max(topics) + max(parts) + sum(seeds[len(seeds) - shown :]),
        )


def prompt_sha256(messages: Sequence[Message]) -> str:
    """Return the hash of a prompt."""
    text = json.dumps(messages, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


CHARACTERS_PER_TOKEN = 3
"""Characters of a token that the longest texts assume. On average, a token has about four."""


def chat_schema(turns: int, answer_tokens: int | None = None) -> dict[str, Any]:
    """Return the JSON schema of a chat with at most this many questions.

    With `answer_tokens`, the chat has exactly this many, and its texts are so short that a model
    can complete them within these tokens.
    """
    user: dict[str, Any] = {"type": "string", "minLength": 2}
    assistant: dict[str, Any] = {"type": "string", "minLength": 2}
    if answer_tokens is not None:
        characters = max(16, CHARACTERS_PER_TOKEN * answer_tokens // (4 * turns))
        user["maxLength"], assistant["maxLength"] = characters, 3 * characters
    turn = {
        "type": "object",
        "properties": {"user": user, "assistant": assistant},
        "required": ["user", "assistant"],
        "additionalProperties": False,
    }
    least = 1 if answer_tokens is None else turns
    return {
        "type": "object",
        "properties": {
            "turns": {"type": "array", "minItems": least, "maxItems": turns, "items": turn}
        },
        "required": ["turns"],
        "additionalProperties": False,
    }


SCORE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"score": {"type": "integer", "enum": list(range(1, BEST_SCORE + 1))}},
    "required": ["score"],
    "additionalProperties": False,
}


def _parts_of(text: str) -> list[tuple[int, str]]:
    """Return the parts of a text with their offsets, split at the ends of paragraphs or words."""
    parts: list[tuple[int, str]] = []
    start = 0
    while start < len(text):
        end = min(start + PART_CHARACTERS, len(text))
        if end < len(text):
            for separator in ("\n\n", "\n", ". ", " "):
                at = text.rfind(separator, start + PART_CHARACTERS // 2, end)
                if at > 0:
                    end = at + len(separator)
                    break
        if part := text[start:end].strip():
            parts.append((start, part))
        start = end
    return parts


def _shown(example: dict[str, Any]) -> str:
    """Return a seed example as the prompt shows it: without its system message, and shortened."""
    turns: list[Message] = []
    user = ""
    for message in example["messages"]:
        content = message.get("content")
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        if message.get("role") == "user":
            user = text
        elif message.get("role") == "assistant" and user:
            turns.append({"user": user, "assistant": text})
            user = ""
    return _cut(json.dumps({"turns": turns}, ensure_ascii=False), SEED_CHARACTERS)


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + CUT


def _cut_bytes(text: str, most: int) -> str:
    encoded = text.encode()
    if len(encoded) <= most:
        return text
    return encoded[: most - len(CUT.encode())].decode(errors="ignore") + CUT
