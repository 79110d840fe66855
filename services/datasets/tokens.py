"""Token counts of a dataset with the tokenizer and chat template of a base model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from domain.training.token_lengths import LabelTokens, TokenLengths
from infrastructure.chat.base_tokenizer import BaseTokenizer
from infrastructure.chat.chat_labels import Marked, Unrenderable, labeled
from infrastructure.chat.template_rendering import ChatRefused
from infrastructure.datasets.preference_columns import conversations_of, is_pair
from infrastructure.process.limited_process import CpuTimeExceeded, Exceeded, cpu_limit

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
    """The text of a conversation, and the marked texts of its sequences, usually only one."""

    text: str
    marked: list[Marked]


def count_tokens(examples: Iterable[bytes], base: BaseTokenizer) -> TokenLengths:
    """Count the tokens and the trainable tokens of each sequence, without truncation.

    A chat is one sequence, or one for each answer if the template rewrites history. As in training,
    sequences without a trainable token do not count. A chat that has no other one counts as a
    whole. A preference pair is two sequences: the prompt with each of its answers. Both must keep a
    trainable token to train on the pair, so its first one is that of the later answer.

    `examples` are the lines of a normalized dataset. The function reads them in batches. Raise
    ChatRefused, with the number of the example, if the chat template rejects it. Raise Costly if
    rendering exceeds a limit. Call this only from the main thread.
    """
    lengths, positions, first = Counter[int](), Counter[int](), Counter[int]()
    least: list[int] = []
    for batch in _batches(_conversations(examples, base)):
        texts = dict.fromkeys(
            text
            for example in batch
            for each in example
            for text in (each.text, *(part.text for part in each.marked))
        )
        encoded = dict(zip(texts, base.encoder.encode(list(texts)), strict=True))
        for example in batch:
            starts: list[list[int]] = []  # first trainable tokens of each conversation's sequences
            for each in example:
                sequences = [labeled(encoded[part.text], part) for part in each.marked]
                trained = [found for found in sequences if found.label_tokens]
                sizes = [len(found.input_ids) for found in trained]
                lengths.update(sizes or [len(encoded[each.text].ids)])
                positions.update(at for found in trained for at in found.label_positions)
                starts.append([found.label_positions[0] for found in trained])
            if all(starts):
                pair = len(example) > 1
                kept = [max(found for (found,) in starts)] if pair else starts[0]
                first.update(kept)
                least = sorted([*least, min(kept)])[:2]
    labels = LabelTokens.of_counts(positions, first, least)
    return TokenLengths.of_counts(lengths).model_copy(update={"labels": labels})


_Example = list[_Conversation]
"""The conversations of an example, one for each sequence."""


def _conversations(examples: Iterable[bytes], base: BaseTokenizer) -> Iterator[_Example]:
    for number, line in enumerate(examples, 1):
        try:
            with cpu_limit(RENDER_CPU_SECONDS):
                example = json.loads(line)
                rendered = [_rendered(each, base) for each in conversations_of(example)]
        except Unrenderable as error:
            raise ChatRefused(f"Example {number:,}: {error}", number) from error
        except CpuTimeExceeded:
            raise Costly(Exceeded.TIME, number) from None
        except MemoryError:
            raise Costly(Exceeded.MEMORY, number) from None
        yield [_last(each) for each in rendered] if is_pair(example) else rendered


def _last(conversation: _Conversation) -> _Conversation:
    """Return a conversation of a pair, of which the trainer uses only the last sequence."""
    return conversation._replace(marked=conversation.marked[-1:])


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
