"""Immutable values."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict

V = TypeVar("V", bound=BaseModel)


class Value(BaseModel):
    """Base class of immutable values. Its models reject unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def part(self, kind: type[V]) -> V:
        """Return the fields that the base class `kind` of this value declares."""
        return kind(**{name: getattr(self, name) for name in kind.model_fields})
