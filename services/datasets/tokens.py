"""Token counts of a dataset with the tokenizer and chat template of a base model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from domain.training.token_lengths import LabelTokens, TokenLengths
from infrastructure.base_tokenizer import BaseTokenizer
from infrastructure.chat_labels import Marked, Unrenderable, labeled
from infrastructure.limited_process import CpuTimeExceeded, Exceeded, cpu_limit
from infrastructure.preference_columns import conversations_of
from infrastructure.template_rendering import ChatRefused

BATCH_CHARACTERS = 1_000_000
BATCH_EXAMPLES = 1_000

RENDER_CPU_SECONDS = 10
"""CPU limit for one conversation. Templates of imported base models may never end."""


class Costly(Exception):
    """Rendering an example exceeds the time or memory limit. `example` counts from 1."""

    def __init__(self, exceeded: Exceeded, example: int) -> None:
        super().__init__(f"example {example} exceeds the {exceeded} limit")
        self.exceeded = exceeded
        self.example = example


class _Conversation(NamedTuple):
    """The text of a conversation, and its marked texts, of which there is usually only one."""

    text: str
    marked: list[Marked]


def count_tokens(examples: Iterable[bytes], base: BaseTokenizer) -> TokenLengths:
    """Count the tokens and the trainable tokens of each sequence, without truncation.

    A chat is one sequence. A preference pair is two: the prompt with each of its answers. Both must
    keep a trainable token to train on the pair, so its first one is that of the later answer.

    `examples` are the lines of a normalized dataset. The function reads them in batches. Raise
    ChatRefused, with the number of the example, if the chat template rejects it. Raise Costly if
    rendering exceeds a limit. Call this only from the main thread.
    """
    lengths, positions, first = Counter[int](), Counter[int](), Counter[int]()
    for batch in _batches(_conversations(examples, base)):
        texts = dict.fromkeys(
            text
            for example in batch
            for each in example
            for text in (each.text, *(part.text for part in each.marked))
        )
        encoded = dict(zip(texts, base.encoder.encode(list(texts)), strict=True))
        for example in batch:
            starts: list[int] = []
            for each in example:
                lengths[len(encoded[each.text].ids)] += 1
                trained = [
                    position
                    for part in each.marked
                    for position in labeled(encoded[part.text], part).label_positions
                ]
                positions.update(trained)
                if trained:
                    starts.append(min(trained))
            if len(starts) == len(example):
                first[max(starts)] += 1
    labels = LabelTokens.of_counts(positions, first)
    return TokenLengths.of_counts(lengths).model_copy(update={"labels": labels})


_Example = list[_Conversation]
"""The conversations of an example, one for each sequence."""


def _conversations(examples: Iterable[bytes], base: BaseTokenizer) -> Iterator[_Example]:
    for number, example in enumerate(examples, 1):
        try:
            with cpu_limit(RENDER_CPU_SECONDS):
                rendered = [_rendered(each, base) for each in conversations_of(json.loads(example))]
        except Unrenderable as error:
            raise ChatRefused(f"Example {number:,}: {error}", number) from error
        except CpuTimeExceeded:
            raise Costly(Exceeded.TIME, number) from None
        except MemoryError:
            raise Costly(Exceeded.MEMORY, number) from None
        yield rendered


def _rendered(conversation: dict[str, Any], base: BaseTokenizer) -> _Conversation:
    text = base.text(*base.plain(conversation))
    try:
        return _Conversation(text, base.marked(conversation))
    # Some turns cannot be rendered alone; the trainer drops the conversation too.
    except Unrenderable:
        return _Conversation(text, [])


def _batches(examples: Iterable[_Example]) -> Iterator[list[_Example]]:
    batch: list[_Example] = []
    characters = 0
    for example in examples:
        batch.append(example)
        characters += sum(len(each.text) for each in example)
        if characters >= BATCH_CHARACTERS or len(batch) >= BATCH_EXAMPLES:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
