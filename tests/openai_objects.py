"""Whether what the `openai` client was answered is what its own typed models promise.

The client builds its models without validating: a field that is missing shows only when it is read.
"""

from __future__ import annotations

from typing import TypeVar

import openai
from pydantic import ValidationError

M = TypeVar("M", bound=openai.BaseModel)

OURS: dict[tuple[int | str, ...], set[str]] = {("status",): {"paused"}}
"""Values beyond the client's enumerations, which it passes on as they are."""


def whole(answered: M) -> M:
    """The object itself, validated against its class: every required field is there and typed."""
    try:
        type(answered).model_validate(answered.to_dict(mode="json", exclude_unset=True))
    except ValidationError as error:
        wrong = [
            each
            for each in error.errors()
            if each["type"] != "literal_error" or each["input"] not in OURS.get(each["loc"], set())
        ]
        assert not wrong, wrong
    return answered
