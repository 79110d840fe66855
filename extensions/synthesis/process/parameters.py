"""Parameters of chat completions that some external models refuse.

OpenAI's reasoning models refuse `max_tokens`, and any other temperature than 1. Most other servers
do not know `max_completion_tokens`.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

LIMIT, NEW_LIMIT = "max_tokens", "max_completion_tokens"
SAMPLING_DEFAULT = 1.0
"""Temperature and `top_p` of a request that has none."""


@dataclass(frozen=True)
class Parameters:
    """The parameters of a question. If `may_vary`, a model may use its own temperature."""

    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    may_vary: bool = False

    def without(self, refused: Collection[str]) -> dict[str, Any]:
        """Return a request's fields, less refused ones that change nothing for this model."""
        sampling = {"temperature": self.temperature, "top_p": self.top_p}
        limit = NEW_LIMIT if LIMIT in refused else LIMIT
        return {limit: self.max_tokens, "seed": self.seed} | {
            name: value
            for name, value in sampling.items()
            if name not in refused or not (self.may_vary or value == SAMPLING_DEFAULT)
        }


def refused_parameter(error: bytes) -> str | None:
    """Return the parameter that a 400 in OpenAI's format names, by default `max_tokens`."""
    try:
        found = json.loads(error)["error"].get("param")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        found = None
    return LIMIT if found is None else str(found)
