"""Columns of the rows of a JSON file, in which each row has its own keys."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import islice
from typing import Any

from domain.datasets.columns import OF_PAIRS, Columns, Role
from infrastructure.datasets.chat_columns import free_role, has_value
from services.datasets.messages import Notes
from services.datasets.report import NAMES_SHOWN, Code, Refused, quoted

USELESS_KEYS = {"parallel_tool_calls"}
"""Keys of OpenAI's format that have no effect on training."""

OPTIONAL = (Role.SYSTEM, Role.INPUT, Role.HISTORY, Role.TOOLS, Role.WEIGHT)
"""Roles that an example need not have."""

MOST_LATE_NAMES = 200


class KeyColumns:
    """The columns of each row of a JSON file.

    EcoLink guesses `columns` from the first rows. None are those of OpenAI's chats. If a later row
    has a known key that the first rows do not have, the key has its role in that row. Columns that
    the user chose stay as they are.
    """

    def __init__(
        self, columns: Columns | None = None, names: Collection[str] = (), *, chosen: bool = False
    ) -> None:
        self.columns = columns
        self.late: dict[Role, str] = {}
        """Roles of the known keys that only later rows have."""
        self.names = dict.fromkeys(names)
        """The keys of the first rows, then those of later rows."""
        self._most_names = len(self.names) + MOST_LATE_NAMES
        self._chosen = chosen
        self._unseen = set(columns.values()) if columns is not None and chosen else set()
        self._rows = 0

    @property
    def missing(self) -> list[str]:
        """Chosen columns that no row has."""
        return sorted(self._unseen) if self._rows else []

    def of(self, row: Mapping[str, Any], notes: Notes) -> Columns | None:
        """Return the columns of a row; None for a chat in OpenAI's format.

        Append a warning about keys without a role to `notes`. Raise Refused if a key makes the row
        a preference pair, but the file has chats.
        """
        self._rows += 1
        self._unseen.difference_update(row)
        self.names.update(dict.fromkeys(islice(row, max(0, self._most_names - len(self.names)))))
        base = _openai_columns(row) if self.columns is None else self.columns
        if base is None:
            return None
        used, unused = {*base.values(), *USELESS_KEYS}, list[str]()
        found = dict(base)
        for key, value in row.items():
            if key in used or not has_value(value):
                continue
            role = None if self._chosen else free_role(key, _filled(found, row))
            if role is None:
                unused.append(key)
            elif role in OF_PAIRS:
                raise answer_of_pair(key)
            else:
                found[role] = self.late[role] = key
        if self.columns is None and found == base:
            return None  # the reader of OpenAI's format warns about its keys
        if unused:
            notes.append((Code.UNUSED_KEYS, tuple(map(quoted, unused[:NAMES_SHOWN]))))
        return found


def answer_of_pair(name: str) -> Refused:
    """Return the error of a chat that has an answer of a preference pair under a known name."""
    return Refused(
        Code.MIXED_KINDS,
        f"The example has {quoted(name)} like a preference pair, but the file has chats. Upload "
        "chats and preference pairs in separate files, or choose the columns without "
        f"{quoted(name)} to ignore it.",
    )


def _filled(columns: Columns, row: Mapping[str, Any]) -> Columns:
    """Return the columns without optional ones that are empty, for which another key may stand."""
    return {
        role: name
        for role, name in columns.items()
        if role not in OPTIONAL or has_value(row.get(name))
    }


def _openai_columns(row: Mapping[str, Any]) -> Columns | None:
    """Return the columns of a chat in OpenAI's format; None for other rows and invalid chats."""
    given = {key for key, value in row.items() if value is not None}
    columns: dict[Role, str]
    if "messages" in given and not given & {"prompt", "completion"}:
        columns = {Role.MESSAGES: "messages"}
    elif "messages" not in given and {"prompt", "completion"} <= given:
        columns = {Role.USER: "prompt", Role.ASSISTANT: "completion"}
    else:
        return None
    tools = [key for key in ("tools", "functions") if row.get(key)]
    if len(tools) > 1:
        return None
    return columns | ({Role.TOOLS: tools[0]} if tools else {})
