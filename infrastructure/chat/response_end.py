"""The end of an answer according to a chat template, which serving and exports share."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from infrastructure.chat.chat_labels import ChatRenderer, Unrenderable

MARKS = ("\u2402", "\u2403")  # placeholders for the text of a message


class ResponseEnd(NamedTuple):
    """A special token, or otherwise a text, that ends each answer. Both can be missing."""

    token: int | None = None
    text: str = ""


def response_end(renderer: ChatRenderer, special_tokens: Collection[int]) -> ResponseEnd:
    """Return the end of answers; none if the template rejects a question with an answer."""
    probe = [{"role": "user", "content": MARKS[0]}, {"role": "assistant", "content": MARKS[1]}]
    try:
        after = renderer.text(probe, None).rpartition(MARKS[1])[2].strip()
    except Unrenderable:
        return ResponseEnd()
    ids = renderer.encode(after).ids
    return (
        ResponseEnd(token=ids[0]) if ids and ids[0] in special_tokens else ResponseEnd(text=after)
    )
