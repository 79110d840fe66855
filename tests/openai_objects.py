"""Validation of responses against the `openai` client's own models.

The client does not validate. A missing field would show only when it is read.
"""

from __future__ import annotations

from typing import TypeVar

import openai
from pydantic import ValidationError

M = TypeVar("M", bound=openai.BaseModel)

OURS: dict[tuple[int | str, ...], set[str]] = {("status",): {"paused"}}
"""Values outside the client's enumerations, which it returns unchanged."""


def whole(answered: M) -> M:
    """Validate an object against its class and return it."""
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
