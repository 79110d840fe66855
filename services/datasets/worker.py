"""The process that validates an upload or counts a dataset, without access to store or network.

`infrastructure.limited_process` starts it with time and memory limits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from infrastructure.limited_process import serve

CHUNK_BYTES = 1024**2

Progress = Callable[[Mapping[str, Any]], None]


def handle(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """Run one task. Return its result for the parent process."""
    if request["task"] == "validate":
        return _validate(request, on_progress)
    return _count(request)


def _validate(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
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
            choices=Choices(UploadOptions(**request["options"]), columns),
        )
    return report.model_dump(mode="json")


def _count(request: dict[str, Any]) -> dict[str, Any]:
    from infrastructure.base_tokenizer import BaseTokenizer
    from infrastructure.ndjson import lines_of
    from infrastructure.template_rendering import ChatRefused
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


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


if __name__ == "__main__":
    serve(handle)
