"""Examples of a dataset as a base model sees them, with the trainable parts marked.

This code runs in a process with resource limits (`gateway/datasets/preview_worker.py`), because a
line or a template can take any amount of time or memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

from infrastructure.chat.chat_labels import (
    IGNORED,
    ChatRenderer,
    Example,
    Marked,
    Message,
    Unrenderable,
    labeled,
)
from infrastructure.chat.text_encoder import Tokens, readable
from infrastructure.datasets.preference_columns import conversations_of, is_pair

CHARACTERS_SHOWN = 20_000  # characters per example
TURNS_TOLD_APART = 100  # maximum turns to separate; each requires rendering all previous messages

EXAMPLES_OF_CONVERSATION = 5
"""Maximum examples of a conversation. Some templates make one of each answer."""

REFUSAL_CHARACTERS = 300  # maximum length of a template's error message
WHOLE_BYTES, WHOLE_MESSAGES = 256 * 1024, 200
"""Limits of a line. Longer ones are cut before rendering and counting tokens."""

READ, LEARNT, CUT = "read", "learnt", "cut"

PREFERRED, REJECTED = "preferred", "rejected"


class Piece(NamedTuple):
    """A text whose tokens are all context (without loss), trainable (with loss) or truncated."""

    text: str
    kind: str


class Turn(NamedTuple):
    """A rendered message. The role is None if the template does not separate messages."""

    role: str | None
    pieces: list[Piece]


@dataclass(frozen=True)
class ShownExample:
    """One training example of a conversation. Counts are in tokens."""

    turns: list[Turn]
    tokens: int
    learnt: int  # trainable tokens; training drops an example without any
    cut: int  # tokens beyond the base model's context
    characters_left_out: int  # characters beyond CHARACTERS_SHOWN
    answer: str | None = None  # PREFERRED or REJECTED; None: the example of a chat


@dataclass(frozen=True)
class ShownConversation:
    """A line of a dataset, counted from 1: its examples, or the template's error message.

    The examples of a preference pair have the preferred answer, and then the rejected one.
    EcoLink cuts a very long line before rendering. `characters_left_out` and `messages_left_out`
    are the parts that the examples and their counts omit.
    """

    number: int
    examples: list[ShownExample]
    refusal: str | None = None
    characters_left_out: int = 0
    messages_left_out: int = 0
    examples_left_out: int = 0

    @property
    def is_cut(self) -> bool:
        """True if part of the line exceeds the base model's context."""
        return any(example.cut for example in self.examples)


def shown_conversations(
    renderer: ChatRenderer, lines: Iterable[bytes], first: int, context: int
) -> list[ShownConversation]:
    """Return lines of a dataset as training examples. `first` is the number of the first line."""
    return [
        _conversation(renderer, number, line, context) for number, line in enumerate(lines, first)
    ]


def lines_from(chunks: Iterable[bytes], skipped: int, count: int) -> Iterator[bytes]:
    """Skip `skipped` lines of a file, then yield the next `count`. Skipped lines use no memory."""
    rest = b""
    for chunk in chunks:
        if skipped:
            ends = chunk.count(b"\n")
            if ends < skipped:
                skipped -= ends
                continue
            chunk = chunk.split(b"\n", skipped)[skipped]
            skipped = 0
        *lines, rest = (rest + chunk).split(b"\n", count)
        yield from lines[:count]
        count -= len(lines)
        if count <= 0:
            return


def _conversation(
    renderer: ChatRenderer, number: int, line: bytes, context: int
) -> ShownConversation:
    row = json.loads(line)
    answers = (PREFERRED, REJECTED) if is_pair(row) else (None,)
    shown = [
        _shown(renderer, (number, line), whole, context, answer)
        for answer, whole in zip(answers, conversations_of(row), strict=True)
    ]
    refused = next((each for each in shown if each.refusal), None)
    return refused or ShownConversation(
        number,
        [example for each in shown for example in each.examples],
        characters_left_out=sum(each.characters_left_out for each in shown),
        messages_left_out=sum(each.messages_left_out for each in shown),
        examples_left_out=sum(each.examples_left_out for each in shown),
    )


def _shown(
    renderer: ChatRenderer,
    numbered: tuple[int, bytes],
    whole: dict[str, Any],
    context: int,
    answer: str | None,
) -> ShownConversation:
    number, line = numbered
    conversation = _shortened(whole) if _is_long(line, whole) else whole
    kept = conversation["messages"]
    try:
        examples = renderer.marked(conversation) if kept else []
        messages, tools = renderer.plain(conversation)
    except Unrenderable as refusal:
        return ShownConversation(number, [], str(refusal)[:REFUSAL_CHARACTERS])
    return ShownConversation(
        number,
        [
            replace(shown_example(renderer, marked, (messages, tools), context), answer=answer)
            for marked in examples[:EXAMPLES_OF_CONVERSATION]
        ],
        characters_left_out=_characters(whole["messages"]) - _characters(kept),
        messages_left_out=len(whole["messages"]) - len(kept),
        examples_left_out=max(0, len(examples) - EXAMPLES_OF_CONVERSATION),
    )


def _is_long(line: bytes, conversation: dict[str, Any]) -> bool:
    return len(line) > WHOLE_BYTES or len(conversation["messages"]) > WHOLE_MESSAGES


def _shortened(whole: dict[str, Any]) -> dict[str, Any]:
    """Return the beginning of a conversation, up to a limit of messages and characters.

    If the last message exceeds the limit, cut its text or omit its tool calls. Omit tool
    definitions that exceed the limit.
    """
    kept: list[Message] = []
    left = CHARACTERS_SHOWN
    tools = whole.get("tools", [])
    if (size := len(json.dumps(tools))) > left:
        tools = []
    else:
        left -= size
    for message in whole["messages"][:TURNS_TOLD_APART]:
        beside = len(json.dumps(message)) - len(json.dumps(message["content"]))
        if beside > left:
            break
        text = message["content"][: left - beside]
        kept.append({**message, "content": text})
        left -= beside + len(text)
        if text != message["content"]:
            break
    return {"messages": kept, "tools": tools}


def _characters(messages: list[Message]) -> int:
    return sum(len(message["content"]) for message in messages)


def shown_example(
    renderer: ChatRenderer, marked: Marked, chat: tuple[list[Message], Any], context: int
) -> ShownExample:
    """Return context, trainable and truncated parts of a text, rendered from `chat`, by turn."""
    tokens = renderer.encode(marked.text)
    example = labeled(tokens, marked)
    shown = marked.text[:CHARACTERS_SHOWN]
    kinds = _kinds(tokens, example, context)
    return ShownExample(
        turns=[
            Turn(role, _pieces(shown, kinds, start, end))
            for role, start, end in _turns(renderer, shown, *chat)
        ],
        tokens=len(tokens.ids),
        learnt=example.truncated(context).label_tokens,
        cut=max(0, len(tokens.ids) - context),
        characters_left_out=len(marked.text) - len(shown),
    )


def _kinds(tokens: Tokens, example: Example, context: int) -> list[tuple[int, str]]:
    """Return the kinds of tokens with their starts. No position predicts the first: context."""
    kinds = [(0, READ)]
    for position, (begin, end) in enumerate(tokens.offsets):
        if begin == end:
            continue
        kind = LEARNT if position and example.labels[position] != IGNORED else READ
        kind = CUT if position >= context else kind
        if kind != kinds[-1][1]:
            kinds.append((begin, kind))
    return kinds


def _turns(
    renderer: ChatRenderer, text: str, messages: list[Message], tools: Any
) -> list[tuple[str | None, int, int]]:
    """Return the role of each message, with its start and end in the text.

    Messages that the template does not separate form one turn without a role. A system message
    that the template adds is a turn of its own.
    """
    turns: list[tuple[str | None, int, int]] = []
    start, roles = _added(renderer, text, messages, tools), []
    if start:
        turns.append(("system", 0, start))
    for number, message in enumerate(messages[:TURNS_TOLD_APART], 1):
        roles.append(message["role"])
        try:
            until = renderer.text(messages[:number], tools)
        except Unrenderable:
            continue
        end = min(len(until), len(text))
        if start < end and text[:end] == until[:end]:
            turns.append((roles[0] if len(roles) == 1 else None, start, end))
            start, roles = end, []
    if start < len(text):
        turns.append((None, start, len(text)))
    return turns


def _added(renderer: ChatRenderer, text: str, messages: list[Message], tools: Any) -> int:
    """Return the length of the system message that the template adds before the first, or 0."""
    if not messages or messages[0]["role"] == "system":
        return 0
    try:
        once, twice = (renderer.text(messages[:1] * times, tools) for times in (1, 2))
    except Unrenderable:
        return 0
    added = once.removesuffix(twice.removeprefix(once))
    is_system = twice.startswith(once) and len(added) < len(once) and "system" in added.lower()
    return len(added) if is_system and text.startswith(added) else 0


def _pieces(text: str, kinds: list[tuple[int, str]], start: int, end: int) -> list[Piece]:
    bounds = [*kinds, (len(text), READ)]
    pieces: list[Piece] = []
    for (begin, kind), (finish, _) in pairwise(bounds):
        part = text[max(begin, start) : min(finish, end)]
        if part:
            pieces.append(Piece(readable(part), kind))
    return pieces
