"""Reading of answers: the JSON of a chat, and that of a score."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs

from domain.synthesis.prompts import SCORE_SCHEMA, Message, chat_schema

SCORES = jsonschema_rs.validator_for(SCORE_SCHEMA)


class Unusable(Exception):
    """An answer is not of the required form. The message says what is wrong."""


def read_chat(text: str, turns: int) -> list[Message]:
    """Return the turns of a chat with at most this many questions. Raise Unusable."""
    document = _document(text)
    try:
        json.dumps(document, ensure_ascii=False).encode()
        return _turns(document, turns)
    except (ValueError, RecursionError) as error:  # half of a surrogate pair, or many levels
        raise Unusable("The answer has invalid Unicode, or too many levels.") from error


def _turns(document: Any, turns: int) -> list[Message]:
    validator = jsonschema_rs.validator_for(chat_schema(turns))
    error = next(validator.iter_errors(document), None)
    if error is not None:
        place = "/".join(map(str, error.instance_path)) or "the answer"
        raise Unusable(f"{place}: {error.kind.name}")
    found: list[Message] = document["turns"]
    if any(not text.strip() for turn in found for text in turn.values()):
        raise Unusable("A message is empty.")
    return found


def read_score(text: str) -> int | None:
    """Return the score in a judge's answer, or None if it is not readable."""
    try:
        document = _document(text)
    except Unusable:
        return None
    return document["score"] if SCORES.is_valid(document) else None


def messages_of(turns: list[Message], system: str) -> tuple[Message, ...]:
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
