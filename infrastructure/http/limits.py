"""The limits in force: of the core and of installed extensions, with an operator's changes."""

from __future__ import annotations

from collections.abc import Mapping

from infrastructure.extensions import installed
from infrastructure.limits import LIMITS


class Limits:
    """The limits by name, which `ECOLINK_LIMITS` (JSON) changes."""

    def __init__(self, changed: Mapping[str, int]) -> None:
        added = [each for one in installed() for each in one.limits]
        self.declared = {**LIMITS, **{each.name: each for each in added}}
        self._values = {name: each.default for name, each in self.declared.items()} | dict(changed)

    def __getitem__(self, name: str) -> int:
        return self._values[name]
