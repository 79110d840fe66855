"""The examples of a seed dataset that a synthesis shows to the model."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from typing import Any

MOST_SEEDS = 200
READ_EXAMPLES = 20_000
"""Examples of a dataset among which the seeds are drawn."""


def seed_examples(lines: Iterable[bytes], seed: int) -> list[dict[str, Any]]:
    """Return a sample of a dataset's chats, the same for the same dataset and seed.

    Only chats with a text from the user and an answer are drawn. The sample is that of Algorithm R
    (Vitter, Random Sampling with a Reservoir, 1985).
    """
    chance = random.Random(f"seeds:{seed}")
    sample: list[dict[str, Any]] = []
    found = 0
    for number, line in enumerate(lines):
        if number == READ_EXAMPLES:
            break
        example = json.loads(line)
        if not _is_chat(example):
            continue
        found += 1
        if len(sample) < MOST_SEEDS:
            sample.append(example)
        elif (place := chance.randrange(found)) < MOST_SEEDS:
            sample[place] = example
    return sample


def _is_chat(example: dict[str, Any]) -> bool:
    texts = {
        each.get("role")
        for each in example.get("messages", ())
        if isinstance(each.get("content"), str) and each["content"].strip()
    }
    return {"user", "assistant"} <= texts
