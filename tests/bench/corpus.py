"""Real chats for tests and benchmarks, English conversations from the package `chatterbot-corpus`.

The chats are not part of this repository. Install them with `pip install --no-deps
chatterbot-corpus==1.3.3`.
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
    """The corpus package is not installed."""


def demo_chats(rows: int = 200, seed: int = 42) -> list[dict[str, Any]]:
    """Return distinct chats as `{"messages": [...]}`, sampled in proportion to the topics' sizes.

    The result depends only on `rows` and `seed`. It has fewer than `rows` chats only if the corpus
    has fewer. Raise CorpusMissing if the corpus is not installed, and ValueError if `rows` is below
    1.
    """
    if rows < 1:
        raise ValueError(f"rows is {rows}; it must be at least 1")
    topics = distinct_conversations(corpus_directory())
    sampled: list[tuple[str, ...]] = []
    for topic, share in _shares({topic: len(found) for topic, found in topics.items()}, rows):
        sampled += sorted(topics[topic], key=lambda turns: _sort_key(seed, turns))[:share]
    sampled.sort(key=lambda turns: _sort_key(seed, turns))
    return [_chat(turns) for turns in sampled]


def write_jsonl(path: Path, rows: int = 200, seed: int = 42) -> int:
    """Write the chats as JSONL. Return the number of chats."""
    chats = demo_chats(rows, seed)
    lines = (json.dumps(chat, ensure_ascii=False) + "\n" for chat in chats)
    path.write_bytes("".join(lines).encode())
    return len(chats)


def corpus_directory() -> Path:
    """Return the directory of the English YAML files, without importing the package."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise CorpusMissing(
            f"The conversations are missing. Install them with: pip install --no-deps {REQUIREMENT}"
        )
    return Path(spec.submodule_search_locations[0]) / "data" / "english"


def distinct_conversations(directory: Path) -> dict[str, list[tuple[str, ...]]]:
    """Return the usable conversations by topic (file name). A duplicate counts for its first topic.

    Turns alternate and start with the user. The result omits a final user turn, and conversations
    with fewer than two turns or with a turn that is not text.
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
    """Return an even number of turns of a conversation; none if it is unusable."""
    if not isinstance(conversation, list):
        return ()
    if not all(isinstance(turn, str) and turn.strip() for turn in conversation):
        return ()
    return tuple(turn.strip() for turn in conversation[: len(conversation) // 2 * 2])


def _shares(sizes: dict[str, int], rows: int) -> list[tuple[str, int]]:
    """Return the number of rows for each topic, by the largest remainder method."""
    total = sum(sizes.values())
    rows = min(rows, total)
    shares = {topic: rows * size // total for topic, size in sizes.items()}
    left = rows - sum(shares.values())
    by_remainder = sorted(sizes, key=lambda topic: (-(rows * sizes[topic] % total), topic))
    for topic in by_remainder[:left]:
        shares[topic] += 1
    return list(shares.items())


def _sort_key(seed: int, turns: tuple[str, ...]) -> bytes:
    """Return a sort key that depends only on the seed and the text."""
    return hashlib.sha256(json.dumps([seed, turns]).encode()).digest()


def _chat(turns: tuple[str, ...]) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {
        "messages": [
            {"role": roles[index % 2], "content": turn} for index, turn in enumerate(turns)
        ]
    }


def main() -> None:
    """Write the chats to a file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("path", type=Path, help="the JSONL file to write")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()
    count = write_jsonl(options.path, options.rows, options.seed)
    print(f"Wrote {count} chats to {options.path}.")


if __name__ == "__main__":
    main()
