"""Attempts to attach, noted on disk: what the process dies of is not tried for ever."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from services.serving.deployed import CannotServe

MOST_DEATHS = 3


class Attempts:
    """How often the process died while it attached a deployment; it takes all others with it.

    A kernel that lacks memory ends a process without a word, so that only a note tells.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def noted(self, deployment_id: UUID) -> Generator[None]:
        """Note an attempt until it ends, however it ends but by the death of the process.

        Raises CannotServe instead of another attempt after MOST_DEATHS.
        """
        deaths = self._read()
        died = deaths.pop(str(deployment_id), 0)
        if died == MOST_DEATHS:
            self._write(deaths)
            raise CannotServe("serving_died", f"{died} times")
        self._write(deaths | {str(deployment_id): died + 1})
        try:
            yield
        finally:
            self._write(deaths)

    def _read(self) -> dict[str, int]:
        return json.loads(self._path.read_text()) if self._path.exists() else {}

    def _write(self, deaths: dict[str, int]) -> None:
        """Replace the note as one step."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(deaths))
        partial.rename(self._path)
