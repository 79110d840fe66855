"""Splitting of chunks into lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.datasets.ndjson import in_words, limited, split_lines
from services.datasets.report import Refused


@given(st.lists(st.lists(st.sampled_from([b"a", b"\n", b"\r"]), max_size=8).map(b"".join)))
def test_chunking_does_not_change_the_lines(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    expected = [(line.rstrip(b"\n")[:3], len(line)) for line in _with_ends(whole)]
    assert list(split_lines(chunks, 3)) == expected


def _with_ends(whole: bytes) -> list[bytes]:
    *ended, rest = whole.split(b"\n")
    return [line + b"\n" for line in ended] + ([rest] if rest else [])


def test_only_the_start_of_a_long_line_is_kept() -> None:
    chunks = (b"x" * 1000 for _ in range(1000))
    assert list(split_lines(chunks, 10)) == [(b"x" * 10, 1_000_000)]


def test_the_limit_is_exact() -> None:
    assert list(limited([b"abc", b"def"], 6)) == [b"abc", b"def"]
    chunks = limited([b"abc", b"def"], 5)
    assert (next(chunks), next(chunks)) == (b"abc", b"de")
    with pytest.raises(Refused):
        next(chunks)


@pytest.mark.parametrize(
    ("size", "words"),
    [(17, "17 bytes"), (1536, "1.5 KiB"), (512 * 1024**2, "512 MiB"), (3 * 1024**3, "3 GiB")],
)
def test_sizes_for_people(size: int, words: str) -> None:
    assert in_words(size) == words
