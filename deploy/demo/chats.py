"""The demo's dataset: real English chats, converted from the package `chatterbot-corpus`.

The package's text is not part of this repository; `pip install --no-deps chatterbot-corpus==1.3.3`
brings it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

PACKAGE = "chatterbot_corpus"
REQUIREMENT = "chatterbot-corpus==1.3.3"


class CorpusMissing(Exception):
    """The package with the conversations is not installed."""


def demo_chats(rows: int = 200, seed: int = 42) -> list[dict[str, Any]]:
    """Distinct chats as `{"messages": [...]}`, drawn so that each topic keeps its share.

    The same rows and seed give the same chats in the same order; there are fewer than `rows` only
    if the corpus has fewer. Raises CorpusMissing, and ValueError for rows below 1.
    """
    if rows < 1:
        raise ValueError("rows must be at least 1")
    topics = distinct_conversations(corpus_directory())
    drawn: list[tuple[str, ...]] = []
    for topic, share in _shares({topic: len(found) for topic, found in topics.items()}, rows):
        drawn += sorted(topics[topic], key=lambda turns: _lot(seed, turns))[:share]
    drawn.sort(key=lambda turns: _lot(seed, turns))
    return [_chat(turns) for turns in drawn]


def write_jsonl(path: Path, rows: int = 200, seed: int = 42) -> int:
    """Write the demo dataset as JSONL; returns the number of its chats."""
    chats = demo_chats(rows, seed)
    lines = (json.dumps(chat, ensure_ascii=False) + "\n" for chat in chats)
    path.write_bytes("".join(lines).encode())
    return len(chats)


def corpus_directory() -> Path:
    """The directory of the English YAML files, found without importing the package."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise CorpusMissing(
            f"install the demo's conversations: pip install --no-deps {REQUIREMENT}"
        )
    return Path(spec.submodule_search_locations[0]) / "data" / "english"


def distinct_conversations(directory: Path) -> dict[str, list[tuple[str, ...]]]:
    """Usable conversations by topic (a file's name), each once, under the first topic that has it.

    A conversation's turns alternate, the user's first; a last turn of the user is dropped. Left
    out are conversations of fewer than two turns, and those with a turn that is empty or no text.
    """
    seen: set[tuple[str, ...]] = set()
    topics: dict[str, list[tuple[str, ...]]] = {}
    for path in sorted(directory.glob("*.yml")):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        for conversation in document["conversations"]:
            turns = _turns(conversation)
            if turns and turns not in seen:
                seen.add(turns)
                topics.setdefault(path.stem, []).append(turns)
    return topics


def _turns(conversation: Any) -> tuple[str, ...]:
    """The turns of a conversation, an even number; empty if it is of no use."""
    if not isinstance(conversation, list):
        return ()
    if not all(isinstance(turn, str) and turn.strip() for turn in conversation):
        return ()
    return tuple(turn.strip() for turn in conversation[: len(conversation) // 2 * 2])


def _shares(sizes: dict[str, int], rows: int) -> list[tuple[str, int]]:
    """How many rows each topic gives: proportional to its size, by largest remainder."""
    total = sum(sizes.values())
    rows = min(rows, total)
    shares = {topic: rows * size // total for topic, size in sizes.items()}
    left = rows - sum(shares.values())
    by_remainder = sorted(sizes, key=lambda topic: (-(rows * sizes[topic] % total), topic))
    for topic in by_remainder[:left]:
        shares[topic] += 1
    return list(shares.items())


def _lot(seed: int, turns: tuple[str, ...]) -> bytes:
    """A pseudo-random order that depends on nothing but the seed and the text."""
    return hashlib.sha256(json.dumps([seed, turns]).encode()).digest()


def _chat(turns: tuple[str, ...]) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {
        "messages": [
            {"role": roles[index % 2], "content": turn} for index, turn in enumerate(turns)
        ]
    }


def main() -> None:
    """Write the demo dataset to a file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("path", type=Path, help="the JSONL file to write")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()
    count = write_jsonl(options.path, options.rows, options.seed)
    print(f"{count} chats written to {options.path}")


if __name__ == "__main__":
    main()
