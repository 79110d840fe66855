"""The examples of a seed dataset that a synthesis shows to the model."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from itertools import islice
from typing import Any

from extensions.synthesis.domain.prompts import Seed

MOST_SEEDS = 200
READ_EXAMPLES, MOST_BYTES = 20_000, 64 * 1024**2
"""Examples, and bytes, at the start of a dataset among which the seeds are drawn."""

MOST_LINE_BYTES = 64 * 1024
"""Most bytes of a drawn example, which takes many times its size once it is parsed."""


def seed_examples(lines: Iterable[bytes], seed: int) -> list[Seed]:
    """Return a sample of a dataset's chats, the same for the same dataset and seed.

    Only chats with a text from the user and an answer are drawn, and none of a long line. The
    sample is that of Algorithm R (Vitter, Random Sampling with a Reservoir, 1985).
    """
    chance = random.Random(f"seeds:{seed}")
    sample: list[Seed] = []
    found = read = 0
    for line in islice(lines, READ_EXAMPLES):
        read += len(line)
        if read > MOST_BYTES:
            break
        if len(line) > MOST_LINE_BYTES:
            continue
        example = json.loads(line)
        if not _is_chat(example):
            continue
        found += 1
        if len(sample) < MOST_SEEDS:
            sample.append(Seed.of(example))
        elif (place := chance.randrange(found)) < MOST_SEEDS:
            sample[place] = Seed.of(example)
    return sample


def _is_chat(example: dict[str, Any]) -> bool:
    texts = {
        each.get("role")
        for each in example.get("messages", ())
        if isinstance(each.get("content"), str) and each["content"].strip()
    }
    return {"user", "assistant"} <= texts
