"""Counts of load attempts, stored on disk so that a fatal attempt is not repeated forever."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from services.serving.deployed import CannotServe

MAX_DEATHS = 3


class Attempts:
    """Counts in a file how often the process died (out of memory) while it loaded a deployment."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def noted(self, deployment_id: UUID) -> Generator[None]:
        """Record an attempt while it lasts. After MAX_DEATHS, raise CannotServe instead."""
        deaths = json.loads(self._path.read_text()) if self._path.exists() else {}
        died = deaths.pop(str(deployment_id), 0)
        if died == MAX_DEATHS:
            self._write(deaths)
            raise CannotServe("serving_died", f"{died} times")
        self._write(deaths | {str(deployment_id): died + 1})
        try:
            yield
        finally:
            self._write(deaths)

    def _write(self, deaths: dict[str, int]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(deaths))
        partial.rename(self._path)
