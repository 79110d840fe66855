"""Tokenization of rendered chats. Special tokens in users' messages stay plain text.

A tokenizer treats `<|im_end|>` anywhere in a text as the end of a message, but only the chat
template may end a message. EcoLink therefore marks each special token in a user's message before it
renders the chat. A copy of the tokenizer, whose special tokens have secret names, then tokenizes
the text. The special tokens of the template are renamed in the text accordingly, and the marked
ones are tokenized as plain text.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from tokenizers import Tokenizer

Value = TypeVar("Value")
Span = tuple[int, int]  # start and end in a text, in characters

SECRET_DIGITS = 24
MARK = f"{secrets.randbelow(10**SECRET_DIGITS):0{SECRET_DIGITS}d}"
"""Mark before a special token that is plain text: random digits, which no filter changes."""


class Tokens(NamedTuple):
    """Token IDs, and the span of each token in the text."""

    ids: list[int]
    offsets: list[Span]


class TextEncoder:
    """A tokenizer of rendered chats. It disables truncation and padding of the given tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        names = sorted((each.content for each in added.values() if each.special), key=len)
        # The longest first, as tokenizers match them.
        self._specials = "|".join(map(re.escape, reversed(names)))
        self._special = re.compile(self._specials) if names else None

    def protected(self, value: Value) -> Value:
        """Return messages or tools with a mark before each special token, for the template."""
        return value if self._special is None else _protected(value, self._special)

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Return the tokens of several rendered texts, using all cores."""
        plain = [text for text in texts if MARK not in text]
        encodings = self.tokenizer.encode_batch(plain, add_special_tokens=False)
        encoded = iter(Tokens(each.ids, each.offsets) for each in encodings)
        return [self._encode_marked(text) if MARK in text else next(encoded) for text in texts]

    def _encode_marked(self, text: str) -> Tokens:
        """Return the tokens of a marked text. Their spans include the marks."""
        renamed, places = self._renamed(text)
        encoding = self._with_secret_names.encode(renamed, add_special_tokens=False)
        return Tokens(
            encoding.ids, [(places[begin], places[end]) for begin, end in encoding.offsets]
        )

    def _renamed(self, text: str) -> tuple[str, list[int]]:
        """Return the text with secret names and without marks, and each character's position."""
        parts: list[str] = []
        places: list[int] = []
        end = 0

        def keep(until: int) -> None:
            parts.append(text[end:until])
            places.extend(range(end, until))

        for found in self._marked_or_special.finditer(text):
            keep(found.start())
            mark, special = found.groups()
            if special and mark:
                begin = found.start() + len(MARK)
                parts.append(special)
                places.extend(range(begin, found.end()))
            elif special:
                parts.append(name := self._secret_names[special])
                places.extend([found.start()] * len(name))
            end = found.end()
        keep(len(text))
        return "".join(parts), [*places, len(text)]

    @cached_property
    def _marked_or_special(self) -> re.Pattern[str]:
        return re.compile(f"({MARK})?({self._specials})|{MARK}")

    @cached_property
    def _secret_names(self) -> Mapping[str, str]:
        """A secret name for each special token, in characters that no normalizer changes."""
        secret = secrets.token_hex(16)
        added = self.tokenizer.get_added_tokens_decoder()
        return {
            each.content: f"\ue000{secret}{number}\ue001"
            for number, each in added.items()
            if each.special
        }

    @cached_property
    def _with_secret_names(self) -> Tokenizer:
        """Tokenizer with renamed special tokens, in its vocabulary too, where some would match."""
        content, names = json.loads(self.tokenizer.to_str()), self._secret_names
        for token in content["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        model = content["model"]
        vocabulary = model["vocab"]
        if isinstance(vocabulary, dict):
            model["vocab"] = {names.get(word, word): id for word, id in vocabulary.items()}
        else:
            model["vocab"] = [[names.get(word, word), score] for word, score in vocabulary]
        if model.get("unk_token") is not None:
            model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
        if "merges" in model:
            model["merges"] = [pair for pair in model["merges"] if not _concerns(pair, names)]
        renamed = Tokenizer.from_str(json.dumps(content))
        for special, name in names.items():
            assert renamed.token_to_id(name) == self.tokenizer.token_to_id(special)
        return renamed


def readable(text: str) -> str:
    """Return a rendered text without marks, for display."""
    return text.replace(MARK, "")


def _protected(value: Any, special: re.Pattern[str]) -> Any:
    if isinstance(value, str):
        own = value.replace(MARK, "")
        return special.sub(lambda found: MARK + found[0], own) if special.search(own) else own
    if isinstance(value, dict):
        return {_protected(key, special): _protected(each, special) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_protected(each, special) for each in value]
    return value


def _concerns(pair: str | Sequence[str], names: Mapping[str, str]) -> bool:
    left, right = pair.split(" ", 1) if isinstance(pair, str) else pair
    return left in names or right in names or left + right in names
