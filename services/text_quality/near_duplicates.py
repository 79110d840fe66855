"""Search for nearly equal texts with MinHash and locality-sensitive hashing."""

from __future__ import annotations

import hashlib
import unicodedata
from typing import NamedTuple

from rensa import RMinHash, RMinHashLSH  # type: ignore[attr-defined]

from domain.datasets.filters import DEFAULT_SIMILARITY

GRAM = 5
PERMUTATIONS = 120
BANDS = {0.5: 40, 0.7: 24}
"""Number of bands by the least similarity from which it is used.

With 24 bands of five rows, LSH finds 99% of the pairs with a similarity of 0.7. With 40 bands of
three rows, it finds 99% of those with 0.5, and compares more texts. Five equal rows in a line
contain a band of three, so that an index with 40 bands finds all that one with 24 bands finds.
"""

SEED = 42
MOST_CHARACTERS = 20_000
"""Characters of a text that are compared. Equal texts are found by their whole content."""

MOST_TEXTS = 200_000
"""Maximum number of texts in an index, which needs about 2.7 kB for each."""

MOST_CANDIDATES = 500
"""Maximum number of candidates that an index compares with a text by default.

A text with as many candidates is not added, only its hash. So if many texts share a part, such as
instructions, the time for each does not grow with their number.
"""


class Match(NamedTuple):
    """The earlier text that a text equals or resembles."""

    key: int
    similarity: float  # 1.0 if the texts are equal

    @property
    def is_exact(self) -> bool:
        """True if the texts are equal after normalization."""
        return self.similarity == 1.0


def normalized(text: str) -> str:
    """Return a text in lower case, with compatible characters and single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


class TextIndex:
    """Texts by key, to find one that a given text equals or resembles.

    The result depends only on the texts and their order. `crowded` counts the searches without a
    result, but with the most candidates or more: they may have missed a text.
    """

    def __init__(
        self, similarity: float = DEFAULT_SIMILARITY, most_candidates: int = MOST_CANDIDATES
    ) -> None:
        """Create an empty index.

        `similarity` is the least Jaccard similarity of the character 5-grams of two texts that
        resemble each other, from LEAST_SIMILARITY to 1.
        """
        bands = BANDS[max(least for least in BANDS if least <= similarity)]
        self._similarity, self._most_candidates = similarity, most_candidates
        self._lsh = RMinHashLSH(threshold=similarity, num_perm=PERMUTATIONS, num_bands=bands)
        self.crowded = 0
        self._sketches: dict[int, RMinHash] = {}
        self._exact: dict[bytes, int] = {}

    @property
    def is_full(self) -> bool:
        """True if the index accepts no more texts."""
        return len(self._exact) >= MOST_TEXTS

    def find(self, text: str) -> Match | None:
        """Return the most similar text in the index, the first of several; None if none is near."""
        plain = normalized(text)
        return self._find(_digest(plain), _sketch(plain))[0]

    def find_or_add(self, key: int, text: str) -> Match | None:
        """Return the similar text in the index, or add this one unless the index is full."""
        plain = normalized(text)
        digest, sketch = _digest(plain), _sketch(plain)
        found, is_crowded = self._find(digest, sketch)
        if found is None and not self.is_full:
            self._exact[digest] = key
            if sketch is not None and not is_crowded:
                self._sketches[key] = sketch
                self._lsh.insert(key, sketch)
        return found

    def _find(self, digest: bytes, sketch: RMinHash | None) -> tuple[Match | None, bool]:
        if (key := self._exact.get(digest)) is not None:
            return Match(key, 1.0), False
        if sketch is None:
            return None, False
        candidates = sorted(self._lsh.query(sketch))
        is_crowded = len(candidates) >= self._most_candidates
        best: Match | None = None
        for key in candidates[: self._most_candidates]:
            similarity = self._sketches[key].jaccard(sketch)
            if similarity >= self._similarity and (best is None or similarity > best.similarity):
                best = Match(key, min(similarity, 0.999))
        self.crowded += is_crowded and best is None
        return best, is_crowded


def _digest(plain: str) -> bytes:
    return hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _sketch(plain: str) -> RMinHash | None:
    """Return the MinHash of a normalized text; None if it is too short to have 5-grams."""
    text = plain[:MOST_CHARACTERS]
    if len(text) < GRAM:
        return None
    sketch = RMinHash(num_perm=PERMUTATIONS, seed=SEED)
    sketch.update([text[at : at + GRAM] for at in range(len(text) - GRAM + 1)])
    return sketch
