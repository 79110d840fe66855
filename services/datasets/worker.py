"""The limited process that reads datasets for all tasks, without store and network."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infrastructure.http.ndjson import lines_of
from infrastructure.process.limited_process import serve

if TYPE_CHECKING:
    from services.datasets.validation import Choices

CHUNK_BYTES = 1024**2

UNUSED_LIBRARIES = ("torch", "transformers")
"""Libraries that presidio imports if they are installed, and that take seconds and memory."""

Progress = Callable[[Mapping[str, Any]], None]


def handle(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """Run one task. Return its result for the parent process."""
    tasks = {
        "validate": _validate,
        "count": _count,
        "analyze": _analyze,
        "contamination": _contamination,
        "difference": _difference,
    }
    return tasks[request["task"]](request, on_progress)


def _validate(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    from domain.datasets.columns import Role
    from domain.datasets.dataset import UploadOptions
    from services.datasets.unpacking import Sizes
    from services.datasets.validation import Choices, validate_file

    chosen = request["columns"]
    columns = None if chosen is None else {Role(role): name for role, name in chosen.items()}
    choices = Choices(UploadOptions(**request["options"]), columns)
    if request.get("filters") is not None:
        choices = _filtering(request, choices)
    with Path(request["examples"]).open("wb") as examples:
        report = validate_file(
            Path(request["upload"]),
            examples.write,
            directory=Path(request["examples"]).parent,
            on_progress=lambda progress: on_progress(progress._asdict()),
            sizes=Sizes(request["max_bytes"], request["max_unpacked_bytes"]),
            choices=choices,
        )
    return report.model_dump(mode="json")


def _filtering(request: dict[str, Any], choices: Choices) -> Choices:
    without_unused_libraries()
    from domain.datasets.filters import Filters
    from services.datasets.line_numbers import LineNumbers
    from services.datasets.quality.filtering import Filtering

    other = request["other_examples"]
    filtering = Filtering(Filters(**request["filters"]), () if other is None else _examples(other))
    lines = LineNumbers.of(_path(request["lines"]))
    return replace(choices, edit=filtering, lines=lines, unit=request["unit"])


def _count(request: dict[str, Any], _on_progress: Progress) -> dict[str, Any]:
    from infrastructure.chat.base_tokenizer import BaseTokenizer
    from infrastructure.chat.template_rendering import ChatRefused
    from services.datasets.tokens import Costly, count_tokens

    files = {path.name: path.read_bytes() for path in Path(request["base"]).iterdir()}
    try:
        tokenizer = BaseTokenizer(files)
        lengths = count_tokens(lines_of(_chunks(Path(request["examples"]))), tokenizer)
    except ChatRefused as refusal:
        return {"refused": refusal.example, "reason": "refused"}
    except Costly as costly:
        return {"refused": costly.example, "reason": costly.exceeded}
    return {"lengths": lengths.model_dump(mode="json")}


def _analyze(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    without_unused_libraries()
    from services.datasets.line_numbers import LineNumbers
    from services.datasets.quality.analysis import Analysis

    lines = LineNumbers.of(_path(request["lines"]))
    analysis = Analysis(lines, request["unit"], request["seconds"])
    report = analysis.run(
        _examples(request["examples"]),
        request["total"],
        lambda analyzed: on_progress({"analyzed": analyzed}),
    )
    return report.model_dump(mode="json")


def _contamination(request: dict[str, Any], _on_progress: Progress) -> dict[str, Any]:
    from services.datasets.line_numbers import LineNumbers
    from services.datasets.quality.contamination import Compared, contamination

    def compared(prefix: str) -> Compared:
        lines = LineNumbers.of(_path(request[f"{prefix}lines"]))
        return Compared(_examples(request[f"{prefix}examples"]), lines, request[f"{prefix}total"])

    found = contamination(
        compared(""), compared("other_"), unit=request["unit"], seconds=request["seconds"]
    )
    return found.model_dump(mode="json")


def _difference(request: dict[str, Any], _on_progress: Progress) -> dict[str, Any]:
    from services.datasets.line_numbers import LineNumbers
    from services.datasets.quality.difference import Side, difference

    def side(prefix: str) -> Side:
        lines = LineNumbers.of(_path(request[f"{prefix}lines"]))
        path = request[f"{prefix}examples"]
        return Side(lambda: _examples(path), lines, request[f"{prefix}unit"])

    found = difference(side("other_"), side(""), same_upload=request["same_upload"])
    return found.model_dump(mode="json")


def without_unused_libraries() -> None:
    """Let imports of UNUSED_LIBRARIES fail in this process, as if they were not installed."""
    for name in UNUSED_LIBRARIES:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)


def _examples(path: str) -> Iterator[bytes]:
    return lines_of(_chunks(Path(path)))


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


if __name__ == "__main__":
    serve(handle)
