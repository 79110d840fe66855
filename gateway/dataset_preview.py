"""A dataset as a base model will see it: its lengths, and examples with what is learnt of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple
from uuid import UUID

from domain.dataset import Dataset
from domain.errors import NotFound
from domain.token_lengths import TokenLengths
from gateway.backend import Backend
from infrastructure.artifacts import Artifacts
from infrastructure.base_tokenizer import BaseTokenizer
from infrastructure.chat_labels import (
    IGNORED,
    ChatRenderer,
    Example,
    Marked,
    Message,
    Unrenderable,
    labelled,
)
from infrastructure.customer_log import without_paths
from infrastructure.limited_rendering import LimitedTemplate
from infrastructure.template_rendering import ChatRefused
from infrastructure.text_encoder import Tokens, readable
from projections.base_models import all_base_models

KEPT_TOKENIZERS = 2
"""Of the bases that were looked at last; a large one takes a hundred megabytes."""

CHARACTERS_SHOWN = 20_000  # of one example
TURNS_TOLD_APART = 100  # each costs a rendering of all that is before it

READ, LEARNT, CUT = "read", "learnt", "cut"


@dataclass(frozen=True)
class BaseView:
    """A base, and a dataset's lengths under it: unknown if its template refuses it, or not yet."""

    name: str
    ref: str
    manifest_sha256: str
    context_length: int
    lengths: TokenLengths | None
    refusal: str | None


class Piece(NamedTuple):
    """A text whose tokens are read, learnt (they carry loss), or cut off behind the context."""

    text: str
    kind: str


class Turn(NamedTuple):
    """What one message became; without a role where the template lets none be told apart."""

    role: str | None
    pieces: list[Piece]


@dataclass(frozen=True)
class ShownExample:
    """One example that training makes of a conversation; the counts are in tokens."""

    turns: list[Turn]
    tokens: int
    learnt: int  # that carry loss; without any, training leaves the example out
    cut: int  # beyond the base's context
    characters_left_out: int  # of what is shown here


@dataclass(frozen=True)
class ShownConversation:
    """A line of a dataset, counted from 1: its examples, or why the template refuses it."""

    number: int
    examples: list[ShownExample]
    refusal: str | None = None

    @property
    def is_cut(self) -> bool:
        """Whether any of it is beyond the base's context."""
        return any(example.cut for example in self.examples)


def base_views(backend: Backend, dataset_id: UUID) -> list[BaseView]:
    """A ready dataset under every base, by name."""
    dataset = backend.log.load(Dataset, dataset_id)
    with backend.pool.connection() as connection:
        bases = all_base_models(connection)
    return [_base_view(dataset, row) for row in bases]


def _base_view(dataset: Dataset, row: dict[str, Any]) -> BaseView:
    revision = (row["name"], row["manifest_sha256"])
    known = dataset.is_counted(*revision)
    return BaseView(
        name=row["name"],
        ref=row["ref"],
        manifest_sha256=row["manifest_sha256"],
        context_length=row["context_length"],
        lengths=dataset.counted[row["name"]].lengths if known else None,
        refusal=dataset.why_uncountable(*revision),
    )


def shown_conversations(
    backend: Backend, dataset_id: UUID, base: BaseView, first: int, count: int
) -> list[ShownConversation]:
    """So many conversations from the one with a number (from 1), as training makes them.

    Raises NotFound for a base without a usable tokenizer or template.
    """
    ref = backend.log.load(Dataset, dataset_id).ref
    try:
        renderer = _tokenizer(backend.artifacts, base.ref, base.manifest_sha256)
    except (FileNotFoundError, ChatRefused) as error:
        raise NotFound(f"{base.name} cannot show examples: {without_paths(str(error))}") from error
    lines = _lines(backend.artifacts, ref, first - 1, count)
    return [
        _conversation(renderer, number, json.loads(line), base.context_length)
        for number, line in enumerate(lines, first)
    ]


@lru_cache(maxsize=KEPT_TOKENIZERS)
def _tokenizer(artifacts: Artifacts, ref: str, manifest_sha256: str) -> BaseTokenizer:
    return BaseTokenizer.stored(artifacts, ref, LimitedTemplate)


def _lines(artifacts: Artifacts, ref: str, skipped: int, count: int) -> Iterator[bytes]:
    """Lines of a file, of which no more than those is held."""
    rest = b""
    for chunk in artifacts.stream(ref):
        if skipped:
            ends = chunk.count(b"\n")
            if ends < skipped:
                skipped -= ends
                continue
            chunk = chunk.split(b"\n", skipped)[skipped]
            skipped = 0
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines[:count]
        count -= len(lines)
        if count <= 0:
            return


def _conversation(
    renderer: ChatRenderer, number: int, conversation: dict[str, Any], context: int
) -> ShownConversation:
    try:
        examples = renderer.marked(conversation)
    except Unrenderable as refusal:
        return ShownConversation(number, [], str(refusal))
    messages = renderer.plain(conversation)
    return ShownConversation(
        number, [shown_example(renderer, marked, messages, context) for marked in examples]
    )


def shown_example(
    renderer: ChatRenderer, marked: Marked, messages: list[Message], context: int
) -> ShownExample:
    """What training reads, learns and cuts off of a text, in the turns that it is made of."""
    tokens = renderer.encode(marked.text)
    example = labelled(tokens, marked)
    shown = marked.text[:CHARACTERS_SHOWN]
    kinds = _kinds(tokens, example, context)
    return ShownExample(
        turns=[
            Turn(role, _pieces(shown, kinds, start, end))
            for role, start, end in _turns(renderer, shown, messages)
        ],
        tokens=len(tokens.ids),
        learnt=example.truncated(context).label_tokens,
        cut=max(0, len(tokens.ids) - context),
        characters_left_out=len(marked.text) - len(shown),
    )


def _kinds(tokens: Tokens, example: Example, context: int) -> list[tuple[int, str]]:
    """Where in the text each kind begins; the first token is never predicted."""
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
    renderer: ChatRenderer, text: str, messages: list[Message]
) -> list[tuple[str | None, int, int]]:
    """Roles, and where in the text their messages begin and end.

    Messages between which the template lets no end be told are one turn without a role.
    """
    turns: list[tuple[str | None, int, int]] = []
    start, roles = 0, []
    for number, message in enumerate(messages[:TURNS_TOLD_APART], 1):
        roles.append(message["role"])
        try:
            until = renderer.text(messages[:number], None)
        except Unrenderable:
            continue
        end = min(len(until), len(text))
        if start < end and text[:end] == until[:end]:
            turns.append((roles[0] if len(roles) == 1 else None, start, end))
            start, roles = end, []
    if start < len(text):
        turns.append((None, start, len(text)))
    return turns


def _pieces(text: str, kinds: list[tuple[int, str]], start: int, end: int) -> list[Piece]:
    """The pieces of a turn."""
    bounds = [*kinds, (len(text), READ)]
    pieces: list[Piece] = []
    for (begin, kind), (finish, _) in pairwise(bounds):
        part = text[max(begin, start) : min(finish, end)]
        if part:
            pieces.append(Piece(readable(part), kind))
    return pieces
