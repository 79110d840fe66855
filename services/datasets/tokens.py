"""Token counts of a validated dataset under a base model's tokenizer and chat template."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from domain.token_lengths import TokenLengths
from infrastructure.base_tokenizer import BaseTokenizer
from infrastructure.chat_labels import Unrenderable
from infrastructure.template_rendering import ChatRefused

BATCH_CHARACTERS = 1_000_000
BATCH_EXAMPLES = 1_000


def count_tokens(examples: Iterable[bytes], base: BaseTokenizer) -> TokenLengths:
    """Count the tokens that training on a base model sees, nothing truncated.

    `examples` are the lines of a normalised dataset; they are held a batch at a time. Raises
    ChatRefused, naming the example from 1, when the chat template refuses one.
    """
    return TokenLengths.of(
        len(encoding)
        for batch in _batches(_texts(examples, base))
        for encoding in base.tokenizer.encode_batch_fast(batch, add_special_tokens=False)
    )


def _texts(examples: Iterable[bytes], base: BaseTokenizer) -> Iterator[str]:
    for number, example in enumerate(examples, 1):
        try:
            yield base.text(base.plain(json.loads(example)), None)
        except Unrenderable as error:
            raise ChatRefused(f"Example {number}: {error}", number) from error


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= BATCH_CHARACTERS or len(batch) >= BATCH_EXAMPLES:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
