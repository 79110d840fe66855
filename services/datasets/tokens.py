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
    """Count the tokens and the trainable tokens of each conversation, without truncation.

    `examples` are the lines of a normalized dataset. The function reads them in batches. Raise
    ChatRefused, with the number of the example, if the chat template rejects it. Raise Costly if
    rendering exceeds a limit. Call this only from the main thread.
    """
    lengths, positions, first = Counter[int](), Counter[int](), Counter[int]()
    for batch in _batches(_conversations(examples, base)):
        texts = dict.fromkeys(
            text for each in batch for text in (each.text, *(part.text for part in each.marked))
        )
        encoded = dict(zip(texts, base.encoder.encode(list(texts)), strict=True))
        for each in batch:
            lengths[len(encoded[each.text].ids)] += 1
            trained = [
                position
                for part in each.marked
                for position in labeled(encoded[part.text], part).label_positions
            ]
            positions.update(trained)
            if trained:
                first[min(trained)] += 1
    labels = LabelTokens.of_counts(positions, first)
    return TokenLengths.of_counts(lengths).model_copy(update={"labels": labels})


def _conversations(examples: Iterable[bytes], base: BaseTokenizer) -> Iterator[_Conversation]:
    for number, example in enumerate(examples, 1):
        try:
            with cpu_limit(RENDER_CPU_SECONDS):
                rendered = _rendered(json.loads(example), base)
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


def _batches(conversations: Iterable[_Conversation]) -> Iterator[list[_Conversation]]:
    batch: list[_Conversation] = []
    characters = 0
    for each in conversations:
        batch.append(each)
        characters += len(each.text)
        if characters >= BATCH_CHARACTERS or len(batch) >= BATCH_EXAMPLES:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
