"""The seed examples of a dataset, whatever the dataset contains."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from extensions.synthesis import seeds as synthesis_seeds
from extensions.synthesis.seeds import MOST_BYTES, MOST_LINE_BYTES, seed_examples


def line(user: str, *, repeats: int = 1) -> bytes:
    turn = [{"role": "user", "content": user}, {"role": "assistant", "content": "a"}]
    return json.dumps({"messages": turn * repeats}).encode()


def test_an_example_that_is_too_long_is_not_drawn() -> None:
    long = line("q" * MOST_LINE_BYTES)
    (found,) = seed_examples([long, b"[" * 9 + long, line("short")], 1)
    assert json.loads(found.text)["turns"] == [{"user": "short", "assistant": "a"}]


def test_no_more_than_the_start_of_a_dataset_is_read() -> None:
    long = line("q" * (MOST_BYTES // 2))
    assert seed_examples([long, long, line("late")], 1) == []
    assert seed_examples([long, line("early"), long], 1)


def test_many_large_examples_need_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis_seeds, "MOST_SEEDS", 20)
    tiny = line("q", repeats=MOST_LINE_BYTES // 90)
    assert 0.5 * MOST_LINE_BYTES < len(tiny) < MOST_LINE_BYTES
    tracemalloc.start()
    try:
        found = seed_examples((tiny for _ in range(22)), 1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found) == 20
    assert peak < 2 * 1024**2
