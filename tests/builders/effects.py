"""Effects of consumers for tests."""

from __future__ import annotations

from collections.abc import Sequence

from domain.core.recorded import Recorded


class KeptIds:
    """An effect that keeps the IDs of its events."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ids: list[int] = []

    def position(self) -> int:
        return self.ids[-1] if self.ids else 0

    def apply(self, batch: Sequence[Recorded]) -> None:
        self.ids += [each.id for each in batch]
