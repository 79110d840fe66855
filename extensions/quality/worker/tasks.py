"""The limited process of this extension, without store and network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from infrastructure.process.limited_process import serve
from services.datasets.line_numbers import LineNumbers
from services.datasets.worker import Progress, examples_of, validate

UNUSED_LIBRARIES = ("torch", "transformers")
"""Libraries that presidio imports if they are installed, and that take seconds and memory."""


def handle(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """Run one task. Return its result for the parent process."""
    tasks = {
        "filter": _filter,
        "analyze": _analyze,
        "contamination": _contamination,
        "difference": _difference,
    }
    return tasks[request["task"]](request, on_progress)


def _filter(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    without_unused_libraries()
    from domain.datasets.filters import Filters
    from extensions.quality.worker.filtering import Filtering

    other = request["other_examples"]
    edit = Filtering(Filters(**request["filters"]), () if other is None else examples_of(other))
    lines = _lines(request["lines"])
    return validate(request, on_progress, edit=edit, lines=lines, unit=request["unit"])


def _analyze(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    without_unused_libraries()
    from extensions.quality.worker.analysis import Analysis

    lines = _lines(request["lines"])
    analysis = Analysis(lines, request["unit"], request["seconds"])
    report = analysis.run(
        examples_of(request["examples"]),
        request["total"],
        lambda analyzed: on_progress({"analyzed": analyzed}),
    )
    return report.model_dump(mode="json")


def _contamination(request: dict[str, Any], _on_progress: Progress) -> dict[str, Any]:
    from extensions.quality.worker.contamination import Compared, contamination

    def compared(prefix: str) -> Compared:
        lines = _lines(request[f"{prefix}lines"])
        return Compared(examples_of(request[f"{prefix}examples"]), lines, request[f"{prefix}total"])

    found = contamination(
        compared(""), compared("other_"), unit=request["unit"], seconds=request["seconds"]
    )
    return found.model_dump(mode="json")


def _difference(request: dict[str, Any], _on_progress: Progress) -> dict[str, Any]:
    from extensions.quality.worker.difference import Side, difference

    def side(prefix: str) -> Side:
        lines = _lines(request[f"{prefix}lines"])
        path = request[f"{prefix}examples"]
        return Side(lambda: examples_of(path), lines, request[f"{prefix}unit"])

    found = difference(side("other_"), side(""), same_upload=request["same_upload"])
    return found.model_dump(mode="json")


def without_unused_libraries() -> None:
    """Let imports of UNUSED_LIBRARIES fail in this process, as if they were not installed."""
    for name in UNUSED_LIBRARIES:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def _lines(path: str | None) -> LineNumbers:
    return LineNumbers.of(None if path is None else Path(path))


if __name__ == "__main__":
    serve(handle)
