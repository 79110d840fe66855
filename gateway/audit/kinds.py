"""Kinds of events that auditors search for: one topic, or all of an aggregate."""

from __future__ import annotations

import re
from functools import cache

from infrastructure.extensions import aggregates

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z][a-z]*")
INITIALS = {"api": "API", "gpu": "GPU"}


@cache
def groups() -> dict[str, dict[str, str]]:
    """Return labels of kinds by name and aggregate. The first kind stands for all of its topics."""
    return {
        _words(each.__name__): {each.__name__: f"{_words(each.__name__)}: all events"}
        | {topic: topic for topic in sorted(_topics(each))}
        for each in aggregates()
    }


@cache
def topics_of_kind(name: str) -> tuple[str, ...]:
    """Return the topics of a kind. Raise KeyError if it is unknown."""
    for each in aggregates():
        topics = _topics(each)
        if name == each.__name__:
            return topics
        if name in topics:
            return (name,)
    raise KeyError(name)


def _topics(kind: type) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each.TOPIC for each in kind.event_classes()))


def _words(name: str) -> str:
    """Return the name of a class as words: `GPU pool` for GpuPool."""
    found = (match[0].lower() for match in WORD.finditer(name))
    words = [INITIALS.get(word, word) for word in found]
    text = " ".join(words)
    return text[0].upper() + text[1:]
