"""Works on a synthesis in a process that kills itself at a point: `python -m ... POINT COUNT`."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any
from uuid import UUID

from extensions.synthesis.domain.synthesis import Synthesis
from extensions.synthesis.process.attempts import AttemptStore
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.store import open_log, open_pool
from infrastructure.settings import Settings
from tests.extensions.synthesis.process.bench import Bench, work

POINTS: dict[str, tuple[type, str, bool]] = {
    "before an answer is stored": (AttemptStore, "keep_answer", False),
    "after an answer is stored": (AttemptStore, "keep_answer", True),
    "after an attempt is stored": (AttemptStore, "keep_attempt", True),
    "after a batch is stored": (AttemptStore, "keep_batch", True),
    "after a batch is recorded": (AttemptStore, "forget", False),
    "before the examples are recorded": (AttemptStore, "keep_provenance", True),
}
"""The class and method at which the process ends, and whether that is after its call."""


def kill_at(point: str, count: int) -> None:
    """Replace a method, so that its call with this number kills the process."""
    kind, name, after = POINTS[point]
    method: Callable[..., Any] = getattr(kind, name)
    calls = itertools.count(1)  # threads call the method at the same time

    def replaced(self: Any, *arguments: Any) -> Any:
        number = next(calls)
        if number == count and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = method(self, *arguments)
        if number == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(kind, name, replaced)


def main() -> None:
    """Work until the process kills itself, or the run ends."""
    point, count, id, serving_url = sys.argv[1:]
    kill_at(point, int(count))
    settings = Settings()
    with open_log(settings) as log, open_pool(settings, max_size=4) as pool:
        bench = Bench(log, pool, Artifacts(settings.artifacts), settings)
        asyncio.run(work(bench, UUID(id), serving_url))
        assert log.load(Synthesis, UUID(id)).counts.attempts


if __name__ == "__main__":
    main()
