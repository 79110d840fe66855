"""Messages as the next version of EcoLink may write them, with fields that this one lacks."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

UNKNOWN = {"added_by_the_next_version": {"some": [1, None]}}


def from_next_version(model: BaseModel) -> dict[str, Any]:
    """Return the JSON document of a model. The model and all models in it have an unknown field."""
    return _extended(model, model.model_dump(mode="json"))


def _extended(value: Any, plain: Any) -> Any:
    match value:
        case BaseModel():
            fields = type(value).model_fields
            return {n: _extended(getattr(value, n), plain[n]) for n in fields} | UNKNOWN
        case list() | tuple():
            return [_extended(each, part) for each, part in zip(value, plain, strict=True)]
        case _:
            return plain
