"""Tokenisation of rendered chats, in which special tokens that a person wrote are text.

A tokenizer reads `<|im_end|>` as the end of a message wherever it stands. Only the chat template
may write it with that meaning. So each special token in what people wrote gets a mark before it is
rendered. A text with marks is tokenised by a copy of the tokenizer whose special tokens have secret
names: the template's are renamed in the text as well, the marked ones are spelled out.
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
Span = tuple[int, int]  # characters of a text: from, and up to but not with

SECRET_DIGITS = 24
MARK = f"{secrets.randbelow(10**SECRET_DIGITS):0{SECRET_DIGITS}d}"
"""Stands before a special token that is text. It is not in any text by chance, and no filter of a
template changes digits."""


class Tokens(NamedTuple):
    """Token ids, and the span of text that each stands for."""

    ids: list[int]
    offsets: list[Span]


class TextEncoder:
    """A tokenizer for rendered chats; texts without marks are tokenised as they always were.

    It takes the tokenizer over: truncation and padding of an earlier use end.
    """

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
        """Messages or tools as the template may get them: with a mark before special tokens."""
        return value if self._special is None else _protected(value, self._special)

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokens of several texts, on all cores; the template has written the special ones."""
        plain = [text for text in texts if MARK not in text]
        encodings = self.tokenizer.encode_batch(plain, add_special_tokens=False)
        encoded = iter(Tokens(each.ids, each.offsets) for each in encodings)
        return [self._encode_marked(text) if MARK in text else next(encoded) for text in texts]

    def _encode_marked(self, text: str) -> Tokens:
        """Tokens of a text with marks; their spans are those of this text, marks included."""
        renamed, places = self._renamed(text)
        encoding = self._with_secret_names.encode(renamed, add_special_tokens=False)
        return Tokens(
            encoding.ids, [(places[begin], places[end]) for begin, end in encoding.offsets]
        )

    def _renamed(self, text: str) -> tuple[str, list[int]]:
        """The text without marks and with secret names, and the place of each of its characters."""
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
        """Secret names, by special token; no normaliser changes their characters."""
        secret = secrets.token_hex(16)
        added = self.tokenizer.get_added_tokens_decoder()
        return {
            each.content: f"\ue000{secret}{number}\ue001"
            for number, each in added.items()
            if each.special
        }

    @cached_property
    def _with_secret_names(self) -> Tokenizer:
        """The tokenizer with its special tokens renamed, also in its vocabulary.

        Left there, some models would still match them as words of their own.
        """
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
    """A rendered text without marks, for people."""
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
    """A merge that reads or makes a special token."""
    left, right = pair.split(" ", 1) if isinstance(pair, str) else pair
    return left in names or right in names or left + right in names
