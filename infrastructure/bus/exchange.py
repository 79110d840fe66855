"""Messages and stored values that another version of EcoLink may have written.

Models reject unknown fields, so that a writer cannot misspell one. A reader of another version
ignores them: during an upgrade, a message may have fields that only the newer version knows. Such a
field has a default that means the same as before.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel

M = TypeVar("M", bound=BaseModel)


def read(kind: type[M], content: object) -> M:
    """Return the model in a JSON text or document, without unknown fields at any level."""
    if isinstance(content, str | bytes | bytearray):
        return kind.model_validate_json(content, extra="ignore")
    return kind.model_validate(content, extra="ignore")
