"""Reading of answers: the JSON of a chat, and that of a score."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from extensions.synthesis.domain.demonstrations import Message
from extensions.synthesis.domain.prompts import SCORE_SCHEMA, chat_schema
from infrastructure.chat.json_schema import validator_of
from services.text_quality.answers import is_cut

SCORES = validator_of(SCORE_SCHEMA)

UNHELPFUL_SCORE = 1
"""Score of a chat that the judge calls unhelpful, whatever its score."""

CLOSING = "\"'\u2019\u201d\u00bb)]}\u300d\u300f*_`"
"""Characters that may follow the end of a sentence."""

ENDS = ".!?:\u2026\u3002\uff01\uff1f\u0964"


class Unusable(Exception):
    """An answer is not of the required form. The message says what is wrong."""


def read_chat(text: str, turns: int, longest: Mapping[str, int] | None) -> list[Message]:
    """Return the turns of a chat with at most this many questions. Raise Unusable.

    `longest` are the most characters by role, at which a grammar ends a text; None without one.
    """
    document = _document(text)
    try:
        json.dumps(document, ensure_ascii=False).encode()
        found = _turns(document, turns)
    except (ValueError, RecursionError) as error:  # half of a surrogate pair, or many levels
        raise Unusable("The answer has invalid Unicode, or too many levels.") from error
    for turn in found:
        _require_usable(turn, longest)
    return found


def _turns(document: Any, turns: int) -> list[Message]:
    validator = validator_of(chat_schema(turns))
    error = next(validator.iter_errors(document), None)
    if error is not None:
        place = "/".join(map(str, error.instance_path)) or "the answer"
        raise Unusable(f"{place}: {error.kind.name}")
    return document["turns"]


def _require_usable(turn: Message, longest: Mapping[str, int] | None) -> None:
    """Raise Unusable for a turn that no training needs, whatever its subject."""
    for role, text in turn.items():
        if not any(each.isalnum() for each in text):
            raise Unusable("A message has neither letters nor digits.")
        if longest is not None and len(text) >= longest[role] and not _is_ended(text):
            raise Unusable("A message is cut off.")
    user, assistant = (" ".join(turn[role].casefold().split()) for role in ("user", "assistant"))
    if user == assistant:
        raise Unusable("An answer repeats its question.")
    if is_cut(turn["assistant"].strip()):
        raise Unusable("An answer is cut off.")


def _is_ended(text: str) -> bool:
    return text.rstrip().rstrip(CLOSING).endswith(tuple(ENDS))


def read_score(text: str) -> int | None:
    """Return a judge's score, lowest for an unhelpful chat, or None if it is not readable."""
    try:
        document = _document(text)
        if not SCORES.is_valid(document):
            return None
    except (Unusable, ValueError, RecursionError):  # half of a surrogate pair, or many levels
        return None
    return document["score"] if document["helpful"] == "yes" else UNHELPFUL_SCORE


def messages_of(turns: Sequence[Message], system: str) -> tuple[Message, ...]:
    """Return the messages of a chat in OpenAI's format."""
    messages = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        messages.append({"role": "user", "content": turn["user"].strip()})
        messages.append({"role": "assistant", "content": turn["assistant"].strip()})
    return tuple(messages)


def _document(text: str) -> Any:
    """Return the JSON of an answer, also of one in a code block."""
    stripped = text.strip()
    if stripped.startswith("```"):
        stripped = stripped.partition("\n")[2].rpartition("```")[0]
    try:
        return json.loads(stripped)
    except (ValueError, RecursionError) as error:
        raise Unusable("The answer is not JSON.") from error
