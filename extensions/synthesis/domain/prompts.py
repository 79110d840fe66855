"""The prompts of a synthesis: functions of the plan, its material and the number of the attempt.

The material rotates: attempt n uses topic n, document part n and two seed examples. A persona and a
style, drawn from the plan's seed, can vary the rest. Earlier turns show finished chats: seed
examples, or demonstrations.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from domain.core.value import Value
from extensions.synthesis.domain.demonstrations import (
    DEMONSTRATIONS,
    JUDGED,
    Demonstration,
    Message,
)
from extensions.synthesis.domain.plan import BEST_SCORE, SynthesisPlan
from extensions.synthesis.domain.price import JUDGE_BYTES, PromptBytes
from extensions.synthesis.domain.request import SynthesisRequest

PART_CHARACTERS = 2_400
"""Most characters of a part of a document in one prompt."""

SHOWN = 2
"""Seed examples, or demonstrations, in one prompt."""

SEED_CHARACTERS = 1_200
"""Characters of a seed example from which its later turns are left out."""

SEED_TEXT = 500
"""Most characters of one text of a seed example."""

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
    "an assistant, in the language of the task. The assistant answers correctly, completely and "
    "politely. Answer only with JSON of the form "
    '{"turns": [{"user": "...", "assistant": "..."}]}.'
)
JUDGE = (
    "You judge training examples for a chat assistant. Is the assistant's answer a correct and "
    "helpful answer to the user's question, and does the chat fit the task? Scores are from 1 "
    "(useless) to 10 (excellent). Answer only with JSON."
)
FOLLOWS = "The chat must follow from this text:\n"
CUT = "…"


class Drawn(Value):
    """The material of one attempt. Numbers count from 0."""

    topic: int | None
    document: int | None
    offset: int | None  # of the document's part, in characters
    seeds: tuple[int, ...]
    demonstrations: tuple[int, ...]  # without seeds
    persona: int | None
    style: int | None
    turns: int
    seed: int  # of the sampler


@dataclass(frozen=True)
class Part:
    """A part of a document."""

    document: int
    offset: int
    text: str


@dataclass(frozen=True)
class Seed:
    """The turns of a seed example, already shortened."""

    turns: tuple[Message, ...]

    @classmethod
    def of(cls, example: dict[str, Any]) -> Seed:
        """Return an example of a dataset without its system message, and shortened."""
        turns: list[Message] = []
        user = ""
        for message in example["messages"]:
            content = message.get("content")
            text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            if message.get("role") == "user":
                user = text
            elif message.get("role") == "assistant" and user:
                turns.append({"user": _cut(user, SEED_TEXT), "assistant": _cut(text, SEED_TEXT)})
                user = ""
                if len(turns) > 1 and len(_chat(turns)) > SEED_CHARACTERS:
                    turns.pop()
                    break
        return cls(tuple(turns))

    @property
    def text(self) -> str:
        """The example as JSON."""
        return _chat(self.turns)

    @property
    def questions(self) -> int:
        """Number of the user's questions."""
        return len(self.turns)

    @property
    def messages(self) -> list[Message]:
        """The request for the example, and the example as its answer."""
        return _exchange(f"Write a chat. {_asks(self.questions)}", self.text)

    @property
    def size(self) -> int:
        """Bytes of the messages."""
        return sum(len(each["content"].encode()) for each in self.messages)


@dataclass(frozen=True)
class Prompts:
    """The prompts of a plan."""

    plan: SynthesisPlan
    request: SynthesisRequest
    parts: Sequence[Part]
    seeds: Sequence[Seed]

    @classmethod
    def of(
        cls, plan: SynthesisPlan, request: SynthesisRequest, seeds: Sequence[Seed] = ()
    ) -> Prompts:
        """Return the prompts with the parts of all documents, and the seed examples."""
        return cls(plan, request, _parts(request), seeds)

    def drawn(self, attempt: int) -> Drawn:
        """Return the material of an attempt, counted from 0."""
        chance = random.Random(f"{self.plan.seed}:{attempt}")
        part = self.parts[attempt % len(self.parts)] if self.parts else None
        count = len(self.seeds)
        return Drawn(
            topic=attempt % len(self.request.topics) if self.request.topics else None,
            document=None if part is None else part.document,
            offset=None if part is None else part.offset,
            seeds=tuple(chance.sample(range(count), min(SHOWN, count))),
            persona=chance.randrange(len(PERSONAS)) if self.plan.personas else None,
            style=chance.randrange(len(STYLES)) if self.plan.personas else None,
            turns=chance.randint(1, self.plan.turns),
            seed=chance.randrange(2**31),
            demonstrations=()
            if self.seeds
            else tuple(chance.sample(range(len(DEMONSTRATIONS)), SHOWN)),
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
            lines.append(f"{FOLLOWS}{part.text}")
        lines.append(_wanted(*self._user(drawn), drawn.turns))
        messages = [{"role": "system", "content": WRITER}]
        for number in drawn.seeds:
            messages += self.seeds[number].messages
        for number in drawn.demonstrations:
            messages += _demonstrated(
                DEMONSTRATIONS[number], drawn.turns, personas=self.plan.personas
            )
        return [*messages, {"role": "user", "content": "\n\n".join(lines)}]

    def _user(self, drawn: Drawn) -> tuple[str, str] | tuple[None, None]:
        if drawn.persona is None or drawn.style is None:
            return None, None
        return PERSONAS[drawn.persona], STYLES[drawn.style]

    def judge(self, drawn: Drawn, turns: Sequence[Message]) -> list[Message]:
        """Return the prompt that asks for a score of a chat."""
        request = self.request
        lines = [f"Task: {_cut(request.instructions, 1_000)}"] if request.instructions else []
        if drawn.topic is not None:
            lines.append(f"Topic: {request.topics[drawn.topic]}")
        for turn in turns:
            lines += [f"User: {turn['user']}", f"Assistant: {turn['assistant']}"]
        room = JUDGE_BYTES - sum(len(each["content"].encode()) for each in JUDGE_MESSAGES)
        text = _cut_bytes("\n\n".join(lines), room)
        return [*JUDGE_MESSAGES, {"role": "user", "content": text}]

    def sizes(self) -> PromptBytes:
        """Return the sizes of the shortest and the longest prompt."""
        return prompt_sizes(self.plan, self.request, [each.size for each in self.seeds])


def prompt_sizes(
    plan: SynthesisPlan, request: SynthesisRequest, seed_sizes: Sequence[int]
) -> PromptBytes:
    """Return the sizes of the shortest and the longest prompt, from those of the seed examples."""
    fixed = len(WRITER.encode())
    if request.instructions:
        fixed += _line_size(f"Task: {request.instructions}")
    topics = [_line_size(f"Topic: {each}") for each in request.topics] or [0]
    parts = [_line_size(f"{FOLLOWS}{each.text}") for each in _parts(request)] or [0]
    wanted = [
        len(_wanted(persona, style, turns).encode())
        for persona, style in _users(personas=plan.personas)
        for turns in range(1, plan.turns + 1)
    ]
    least = most = sorted(seed_sizes)
    if not seed_sizes:
        least, most = (
            sorted(_size(each, turns, personas=plan.personas) for each in DEMONSTRATIONS)
            for turns in (1, plan.turns)
        )
    return PromptBytes(
        shortest=fixed + min(topics) + min(parts) + min(wanted) + sum(least[:SHOWN]),
        longest=fixed + max(topics) + max(parts) + max(wanted) + sum(most[-SHOWN:]),
    )


def _line_size(text: str) -> int:
    return len(f"{text}\n\n".encode())


def _users(*, personas: bool) -> list[tuple[str, str] | tuple[None, None]]:
    if not personas:
        return [(None, None)]
    return [(persona, style) for persona in PERSONAS for style in STYLES]


def prompt_sha256(messages: Sequence[Message]) -> str:
    """Return the hash of a prompt."""
    text = json.dumps(messages, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


CHARACTERS_PER_TOKEN = 3
"""Characters of a token that the longest texts assume. On average, a token has about four."""


def longest_texts(turns: int, answer_tokens: int) -> dict[str, int]:
    """Return the most characters of a question and of an answer, by role."""
    characters = max(16, CHARACTERS_PER_TOKEN * answer_tokens // (4 * turns))
    return {"user": characters, "assistant": 3 * characters}


def chat_schema(turns: int, answer_tokens: int | None = None) -> dict[str, Any]:
    """Return the JSON schema of a chat with at most this many questions.

    With `answer_tokens`, the chat has exactly this many, and its texts are so short that a model
    can complete them within these tokens.
    """
    user: dict[str, Any] = {"type": "string", "minLength": 2}
    assistant: dict[str, Any] = {"type": "string", "minLength": 2}
    if answer_tokens is not None:
        longest = longest_texts(turns, answer_tokens)
        user["maxLength"], assistant["maxLength"] = longest["user"], longest["assistant"]
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
    "properties": {
        "helpful": {"type": "string", "enum": ["yes", "no"]},
        "score": {"type": "integer", "enum": list(range(1, BEST_SCORE + 1))},
    },
    "required": ["helpful", "score"],
    "additionalProperties": False,
}
"""The schema of a judgement. Small models judge better if they first answer yes or no."""


def _exchange(request: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]


def _asks(questions: int) -> str:
    count = "1 question" if questions == 1 else f"{questions} questions in turn"
    return f"The user asks {count}."


def _wanted(persona: str | None, style: str | None, questions: int) -> str:
    if persona is None:
        return _asks(questions)
    return f"The user is {persona} and begins with {style}. {_asks(questions)}"


def _demonstrated(each: Demonstration, questions: int, *, personas: bool) -> list[Message]:
    turns = each.turns[:questions]
    user = (each.persona, each.style) if personas else (None, None)
    wanted = f"Task: {each.task}\n\nTopic: {each.topic}\n\n{_wanted(*user, len(turns))}"
    return _exchange(wanted, _chat(turns))


def _size(each: Demonstration, questions: int, *, personas: bool) -> int:
    messages = _demonstrated(each, questions, personas=personas)
    return sum(len(message["content"].encode()) for message in messages)


JUDGE_MESSAGES: tuple[Message, ...] = (
    {"role": "system", "content": JUDGE},
    *(
        message
        for each in JUDGED
        for message in _exchange(
            f"Task: {each.task}\n\nUser: {each.user}\n\nAssistant: {each.assistant}",
            json.dumps({"helpful": "yes" if each.helpful else "no", "score": each.score}),
        )
    ),
)
"""The start of all judge's prompts, with finished judgements."""


def _parts(request: SynthesisRequest) -> list[Part]:
    return [
        Part(number, offset, text)
        for number, document in enumerate(request.documents)
        for offset, text in _parts_of(document.text)
    ]


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


def _chat(turns: Sequence[Message]) -> str:
    return json.dumps({"turns": turns}, ensure_ascii=False)


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + CUT


def _cut_bytes(text: str, most: int) -> str:
    encoded = text.encode()
    if len(encoded) <= most:
        return text
    return encoded[: most - len(CUT.encode())].decode(errors="ignore") + CUT
