"""The difference between two datasets: added, removed and changed examples."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from extensions.quality.domain.quality_report import Change, Difference
from services.datasets.line_numbers import LineNumbers
from services.text_quality.texts import ANSWERS, messages_of, prompt_of

CHANGES_KEPT = 200
"""Number of changes of each kind that are listed."""

TEXT_KEPT = 400
BEFORE_CHANGE = 80
"""Characters shown before the first difference of a changed example."""

TEXT_COMPARED = 64 * 1024
"""Characters of a changed example in which the first difference is looked for."""

DIGEST_BYTES = 12


class Side(NamedTuple):
    """A normalized file: a function that opens it, the lines of its examples, and their unit."""

    open: Callable[[], Iterable[bytes]]
    lines: LineNumbers
    unit: str


class _Lone(NamedTuple):
    """An example in one of the files only: its number from 1, its line, and hashes of its parts."""

    number: int
    line: int
    prompt: bytes
    answer: bytes


def difference(old: Side, new: Side, *, same_upload: bool = False) -> Difference:
    """Compare an older with a newer file of normalized examples.

    An example that is in only one of them has been changed if the other one has an example without
    an equal, with the same prompt or with the same answer. If filters made the newer one, both have
    the lines of the `same_upload`, and then those of the same line have been changed. Both files
    are read three times. Memory grows with the number of examples, by about 100 bytes each, and not
    with their size.
    """
    only_old, only_new, unchanged = _unmatched(old.open(), new.open())
    before = list(_missing(old, only_old))
    after = list(_missing(new, only_new))
    pairs = _pairs(before, after, ("line",) if same_upload else ("prompt", "answer"))
    changed_old = {number for number, _ in pairs}
    changed_new = {number for _, number in pairs}
    removed = [each.number for each in before if each.number not in changed_old]
    added = [each.number for each in after if each.number not in changed_new]
    shown = pairs[:CHANGES_KEPT]
    old_texts = _texts(old.open(), {*removed[:CHANGES_KEPT], *(pair[0] for pair in shown)})
    texts = _texts(new.open(), {*added[:CHANGES_KEPT], *(pair[1] for pair in shown)})

    def change(old_number: int | None, number: int | None) -> Change:
        old_text = None if old_number is None else old_texts[old_number]
        text = None if number is None else texts[number]
        start = 0 if text is None or old_text is None else _start(old_text, text)
        return Change(
            line=None if number is None else new.lines.line_of(number),
            old_line=None if old_number is None else old.lines.line_of(old_number),
            text=None if text is None else _shortened(text, start),
            old_text=None if old_text is None else _shortened(old_text, start),
        )

    return Difference(
        unit=new.unit,
        old_unit=old.unit,
        old_examples=unchanged + len(before),
        examples=unchanged + len(after),
        unchanged=unchanged,
        added=len(added),
        removed=len(removed),
        changed=len(pairs),
        added_examples=tuple(change(None, each) for each in added[:CHANGES_KEPT]),
        removed_examples=tuple(change(each, None) for each in removed[:CHANGES_KEPT]),
        changed_examples=tuple(change(*pair) for pair in shown),
    )


def _unmatched(
    old: Iterable[bytes], new: Iterable[bytes]
) -> tuple[Counter[bytes], Counter[bytes], int]:
    """Return how often each example is only in the old, or only in the new file, and in both."""
    counts = Counter[bytes](map(_digest, old))
    only_new = Counter[bytes]()
    unchanged = 0
    for content in new:
        digest = _digest(content)
        if counts[digest] > 0:
            counts[digest] -= 1
            unchanged += 1
        else:
            del counts[digest]
            only_new[digest] += 1
    return +counts, only_new, unchanged


def _missing(side: Side, counts: Counter[bytes]) -> Iterator[_Lone]:
    """Yield the last examples of each content, as many as counted: the first ones are matched."""
    totals = Counter[bytes]()
    lone: list[tuple[bytes, _Lone]] = []
    for number, content in enumerate(side.open(), 1):
        digest = _digest(content)
        if digest in counts:
            totals[digest] += 1
            lone.append((digest, _Lone(number, side.lines.line_of(number), *_parts(content))))
    seen = Counter[bytes]()
    for digest, each in lone:
        seen[digest] += 1
        if seen[digest] > totals[digest] - counts[digest]:
            yield each


def _pairs(
    before: list[_Lone], after: list[_Lone], parts: tuple[str, ...]
) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    used: set[int] = set()
    left = after
    for part in parts:
        waiting: dict[object, list[int]] = {}
        for each in reversed(before):
            if each.number not in used:
                waiting.setdefault(getattr(each, part), []).append(each.number)
        rest: list[_Lone] = []
        for each in left:
            if numbers := waiting.get(getattr(each, part)):
                used.add(number := numbers.pop())
                pairs.append((number, each.number))
            else:
                rest.append(each)
        left = rest
    return sorted(pairs, key=lambda pair: pair[1])


def _texts(examples: Iterable[bytes], numbers: set[int]) -> dict[int, str]:
    """Return the texts of the examples with the given numbers, up to TEXT_COMPARED characters."""
    last = max(numbers, default=0)
    texts: dict[int, str] = {}
    for number, content in enumerate(examples, 1):
        if number > last:
            break
        if number in numbers:
            texts[number] = _written(json.loads(content))[:TEXT_COMPARED]
    return texts


def _written(example: dict[str, Any]) -> str:
    return "\n".join(
        f"{message['role']}: {message['content'] or 'calls tools'}"
        for message in messages_of(example)
    )


def _start(old: str, new: str) -> int:
    """Return the position from which two texts are shown, so that their difference is visible."""
    equal = (one == other for one, other in zip(old, new, strict=False))
    first = next((at for at, is_equal in enumerate(equal) if not is_equal), min(len(old), len(new)))
    if first < TEXT_KEPT - BEFORE_CHANGE:
        return 0
    return first - BEFORE_CHANGE


def _shortened(text: str, start: int = 0) -> str:
    """Return a part of a text from a position on, with marks where text is left out."""
    part = text[start : start + TEXT_KEPT]
    return f"{'…' if start else ''}{part}{'…' if start + TEXT_KEPT < len(text) else ''}"


def _parts(content: bytes) -> tuple[bytes, bytes]:
    """Return the hashes of the messages before the last answer, and from it on."""
    example = json.loads(content)
    messages = example.get("messages")
    if messages is None:
        return _of(prompt_of(example)), _of([example[key] for key in ANSWERS])
    last = max(at for at, message in enumerate(messages) if message["role"] == "assistant")
    return _of(messages[:last]), _of(messages[last:])


def _of(value: Any) -> bytes:
    return _digest(json.dumps(value, sort_keys=True).encode())


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()
