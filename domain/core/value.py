"""Immutable values."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict

V = TypeVar("V", bound=BaseModel)


class Value(BaseModel):
    """Base class of immutable values. Its models reject unknown fields."""

    # A process uses few of the models. `defer_build` builds the validator of each at its first use.
    # Without "constants", pydantic would store NaN as null, which cannot be read as a number.
    model_config = ConfigDict(
        frozen=True, extra="forbid", defer_build=True, ser_json_inf_nan="constants"
    )

    def part(self, kind: type[V]) -> V:
        """Return the fields that the base class `kind` of this value declares."""
        return kind(**{name: getattr(self, name) for name in kind.model_fields})
