"""Detection of examples that repeat others, exactly or nearly."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rensa import RMinHash, RMinHashLSH  # type: ignore[attr-defined]

from domain.synthesis.prompts import Message

PERMUTATIONS, BANDS = 128, 32
SHINGLE_WORDS = 3
SEED = 42

WORDS = re.compile(r"\w+")


class SeenExamples:
    """The examples so far. Two are near-duplicates if their shingles' similarity is high enough.

    The similarity is the Jaccard index of their three-word shingles, estimated by MinHash (Broder,
    On the resemblance and containment of documents, 1997).
    """

    def __init__(self, similarity: float) -> None:
        self._similarity = similarity
        self._exact: set[tuple[str, ...]] = set()
        self._hashes: list[RMinHash] = []
        self._index = RMinHashLSH(similarity, PERMUTATIONS, BANDS)

    def repeats(self, messages: Iterable[Message]) -> bool:
        """Return True if an example repeats another one."""
        words = _words(messages)
        return self._repeats(words, _minhash(words))

    def add(self, messages: Iterable[Message]) -> bool:
        """Add an example. Return False, and add nothing, if it repeats another one."""
        words = _words(messages)
        minhash = _minhash(words)
        if self._repeats(words, minhash):
            return False
        self._exact.add(words)
        self._index.insert(len(self._hashes), minhash)
        self._hashes.append(minhash)
        return True

    def _repeats(self, words: tuple[str, ...], minhash: RMinHash) -> bool:
        return words in self._exact or any(
            self._hashes[key].jaccard(minhash) >= self._similarity
            for key in self._index.query(minhash)
        )


def _minhash(words: Sequence[str]) -> RMinHash:
    minhash = RMinHash(PERMUTATIONS, SEED)
    minhash.update(_shingles(words))
    return minhash


def _words(messages: Iterable[Message]) -> tuple[str, ...]:
    texts = [each["content"] for each in messages if each["role"] != "system"]
    return tuple(word for text in texts for word in WORDS.findall(text.casefold()))


def _shingles(words: Sequence[str]) -> list[str]:
    last = max(1, len(words) - SHINGLE_WORDS + 1)
    return [" ".join(words[at : at + SHINGLE_WORDS]) for at in range(last)]
