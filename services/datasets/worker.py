"""The limited process that validates and counts datasets, without store and network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from infrastructure.http.ndjson import lines_of
from infrastructure.process.limited_process import serve

CHUNK_BYTES = 1024**2

Progress = Callable[[Mapping[str, Any]], None]


def handle(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """Run one task. Return its result for the parent process."""
    tasks = {"validate": validate, "count": _count}
    return tasks[request["task"]](request, on_progress)


def validate(request: dict[str, Any], on_progress: Progress, **choices: Any) -> dict[str, Any]:
    """Validate an upload. `choices` are further ones, such as the edit of each example."""
    from domain.datasets.columns import Role
    from domain.datasets.dataset import UploadOptions
    from services.datasets.unpacking import Sizes
    from services.datasets.validation import Choices, validate_file

    chosen = request["columns"]
    columns = None if chosen is None else {Role(role): name for role, name in chosen.items()}
    with Path(request["examples"]).open("wb") as examples:
        report = validate_file(
            Path(request["upload"]),
            examples.write,
            directory=Path(request["examples"]).parent,
            on_progress=lambda progress: on_progress(progress._asdict()),
            sizes=Sizes(request["max_bytes"], request["max_unpacked_bytes"]),
            choices=Choices(UploadOptions(**request["options"]), columns, **choices),
        )
    return report.model_dump(mode="json")


def _count(request: dict[str, Any], _on_progress: Progress) -> dict[str, Any]:
    from infrastructure.chat.base_tokenizer import BaseTokenizer
    from infrastructure.chat.template_rendering import ChatRefused
    from services.datasets.tokens import Costly, count_tokens

    files = {path.name: path.read_bytes() for path in Path(request["base"]).iterdir()}
    try:
        tokenizer = BaseTokenizer(files)
        lengths = count_tokens(examples_of(request["examples"]), tokenizer)
    except ChatRefused as refusal:
        return {"refused": refusal.example, "reason": "refused"}
    except Costly as costly:
        return {"refused": costly.example, "reason": costly.exceeded}
    return {"lengths": lengths.model_dump(mode="json")}


def examples_of(path: str) -> Iterator[bytes]:
    """Yield the examples of a normalized file."""
    return lines_of(_chunks(Path(path)))


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


if __name__ == "__main__":
    serve(handle)
