"""The columns of a dataset, which are keys of JSON objects or columns of a table, by role."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from enum import StrEnum

from domain.core.errors import Invalid

MAX_COLUMN_NAME = 200
"""Maximum length of the name of a chosen column, in characters."""


class Role(StrEnum):
    """Roles of a column in an example."""

    MESSAGES = "messages"
    SYSTEM = "system"
    USER = "user"
    INPUT = "input"
    ASSISTANT = "assistant"
    CHOSEN = "chosen"
    REJECTED = "rejected"
    HISTORY = "history"
    TOOLS = "tools"
    WEIGHT = "weight"


Columns = Mapping[Role, str]
"""The name of the column of each role that the dataset has."""

TITLES: Mapping[Role, str] = {
    Role.MESSAGES: "Messages",
    Role.SYSTEM: "System prompt",
    Role.USER: "User's text",
    Role.INPUT: "More of the user's text",
    Role.ASSISTANT: "Answer",
    Role.CHOSEN: "Preferred answer",
    Role.REJECTED: "Rejected answer",
    Role.HISTORY: "Earlier turns",
    Role.TOOLS: "Tools",
    Role.WEIGHT: "Weight of the answer",
}

OF_TURNS = (Role.USER, Role.INPUT, Role.ASSISTANT, Role.HISTORY)
"""Roles that a column of messages replaces."""

OF_PAIRS = (Role.CHOSEN, Role.REJECTED)
"""Roles that make a preference pair."""

NOT_OF_PAIRS = (Role.MESSAGES, Role.ASSISTANT, Role.WEIGHT)
"""Roles that a preference pair cannot have."""


def chosen_columns(raw: Mapping[str, str]) -> dict[Role, str]:
    """Return the columns that a user chose, in the order of Role.

    Raise Invalid if a role is unknown, a name is empty or too long, a column has two roles, or the
    columns do not make a chat.
    """
    for role, name in raw.items():
        if role not in set(Role):
            raise _invalid(f"Unknown role {role!r}. Use {_words(Role)}.")
        if not 0 < len(name) <= MAX_COLUMN_NAME or "\0" in name:
            raise _invalid(
                f"The column of {role!r} is {name[:40]!r}. Give the name of a column, with at "
                f"most {MAX_COLUMN_NAME} characters."
            )
    columns = {role: raw[role] for role in Role if role in raw}
    roles: dict[str, Role] = {}
    for role, name in columns.items():
        if (other := roles.setdefault(name, role)) is not role:
            raise _invalid(
                f"The column {name!r} is chosen for {titled(other, role)}. Choose one of them."
            )
    if pair := [role for role in OF_PAIRS if role in columns]:
        _check_pair(columns, pair)
    elif Role.MESSAGES in columns:
        if turns := [role for role in OF_TURNS if role in columns]:
            raise _invalid(
                f"Columns are chosen for {titled(Role.MESSAGES, *turns)}. A column of messages "
                "replaces the others. Choose either it or them."
            )
    elif missing := [role for role in (Role.USER, Role.ASSISTANT) if role not in columns]:
        raise _invalid(
            f"No column is chosen for {titled(*missing)}. Choose columns for "
            f"{titled(Role.USER, Role.ASSISTANT)}, or one for {titled(Role.MESSAGES)}, or columns "
            f"for {titled(*OF_PAIRS)}."
        )
    return columns


def _check_pair(columns: Columns, pair: list[Role]) -> None:
    """Raise Invalid unless the columns make preference pairs."""
    if missing := [role for role in OF_PAIRS if role not in pair]:
        raise _invalid(
            f"No column is chosen for {titled(*missing)}. Preference pairs need columns for "
            f"{titled(*OF_PAIRS)}."
        )
    if wrong := [role for role in NOT_OF_PAIRS if role in columns]:
        raise _invalid(
            f"Preference pairs have no column for {titled(*wrong)}. Choose columns for "
            f"{titled(*OF_PAIRS)}, and {titled(Role.USER)} for the prompt."
        )


def columns_document(columns: Columns) -> bytes:
    """Return chosen columns as JSON. Equal columns give equal bytes."""
    return json.dumps({str(role): columns[role] for role in Role if role in columns}).encode()


def columns_from(document: bytes) -> dict[Role, str]:
    """Return chosen columns from their JSON."""
    return {Role(role): name for role, name in json.loads(document).items()}


def columns_sha256(columns: Columns) -> str:
    """Return the hash of chosen columns."""
    return hashlib.sha256(columns_document(columns)).hexdigest()


def titled(*roles: Role) -> str:
    """Return the titles of roles, each with the name of the role in parentheses."""
    words = [f"{TITLES[role]} ({role})" for role in roles]
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


def _words(names: Iterable[str]) -> str:
    return ", ".join(map(str, names))


def _invalid(message: str) -> Invalid:
    return Invalid(message, field="columns")
