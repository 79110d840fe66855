"""Validation errors of the fields of a request, with the names that the client sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError

Location = Sequence[int | str]

SHOWN_CHARACTERS = 60
EXAMPLE_ID = "9b2d1c9e-6d1f-4a53-9a3e-2f1c5d7e8a90"
OUGHT = "Input should be "
"""Common prefix of Pydantic's messages."""


def refused_fields(error: RequestValidationError) -> dict[str, str]:
    """Return the error of each invalid field. A field with a union type can have several errors."""
    told: dict[str, list[str]] = {}
    for problem in error.errors():
        name = field_name(_sent(problem["loc"], error.body))
        told.setdefault(name, []).append(_message(problem))
    return {name: _either(messages) for name, messages in told.items()}


def _message(problem: Mapping[str, Any]) -> str:
    if problem.get("type") == "uuid_parsing" and isinstance(problem["input"], str):
        return f"{problem['input'][:SHOWN_CHARACTERS]!r} is not an ID, such as {EXAMPLE_ID}"
    return problem["msg"].removeprefix("Value error, ")


def field_name(location: Location) -> str:
    """Return the name of a field without its location, such as body or query."""
    return ".".join(str(part) for part in location[1:]) or str(location[0])


def _sent(location: Location, body: Any) -> Location:
    if location[0] != "body" or not isinstance(body, dict | list):
        return location
    sent, there = [location[0]], body
    for part in location[1:]:
        if isinstance(there, dict):
            there = there.get(part)
        elif isinstance(there, list) and isinstance(part, int):
            there = there[part] if part < len(there) else None
        else:
            continue
        sent.append(part)
    return sent


def _either(messages: Sequence[str]) -> str:
    first, *others = dict.fromkeys(messages)
    return " or ".join([first, *(each.removeprefix(OUGHT) for each in others)])
