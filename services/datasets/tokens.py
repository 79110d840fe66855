"""Token counts of a validated dataset under a base model's tokenizer and chat template."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer

from domain.token_lengths import TokenLengths
from services.datasets.chat_template import ChatRefused, ChatTemplate

BATCH_CHARACTERS = 1_000_000
BATCH_EXAMPLES = 1_000


def count_tokens(examples: Iterable[bytes], model_directory: Path) -> TokenLengths:
    """Count the tokens that training on a base model sees, nothing truncated.

    `examples` are the lines of a normalised dataset; they are held a batch at a time.
    `model_directory` holds the base's `tokenizer.json` and, if it has one, its chat template.
    Raises FileNotFoundError without a tokenizer, and ChatRefused, naming the example from 1, when
    the chat template refuses one or, without a number, when the template itself is invalid.
    """
    tokenizer = _tokenizer(model_directory)
    template = ChatTemplate.of(model_directory)
    return TokenLengths.of(
        len(encoding)
        for batch in _batches(_texts(examples, template))
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False)
    )


def _tokenizer(model_directory: Path) -> Tokenizer:
    path = model_directory / "tokenizer.json"
    if not path.exists():
        raise FileNotFoundError(f"{model_directory.name} has no tokenizer.json")
    tokenizer = Tokenizer.from_file(str(path))
    # A saved tokenizer may still carry the lengths of its last use.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _texts(examples: Iterable[bytes], template: ChatTemplate) -> Iterator[str]:
    for number, example in enumerate(examples, 1):
        try:
            yield template.render(json.loads(example)["messages"])
        except ChatRefused as error:
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
