"""A process that renders and tokenizes examples for the pages, one request at a time.

Each line of standard input is a request. The process writes one line of output for it. Every
request has a CPU limit. A request that reaches the memory limit ends the process.
"""

from __future__ import annotations

import sys
from functools import lru_cache

from pydantic import BaseModel

from gateway.datasets.example_rendering import (
    REFUSAL_CHARACTERS,
    ShownConversation,
    lines_from,
    shown_conversations,
)
from infrastructure.artifacts.store import ArtifactCorrupt, Artifacts
from infrastructure.chat.base_tokenizer import BaseTokenizer
from infrastructure.chat.template_rendering import ChatRefused
from infrastructure.process.limited_process import CpuTimeExceeded, Limits, confine, cpu_limit
from infrastructure.training.customer_log import without_paths

KEPT_TOKENIZERS = 2
"""Number of cached tokenizers. A large one takes about 100 MB."""

LIMITS = Limits(cpu_seconds=3600, wall_seconds=60, memory_mib=1024)
"""CPU seconds of a process, wall-clock seconds of a request, and MiB of memory."""

REQUEST_CPU_SECONDS = 5


class PreviewRequest(BaseModel):
    """A request for `count` lines of a dataset, starting with line `first` (from 1)."""

    artifacts: str  # URL of the artifact store
    dataset_ref: str
    base_ref: str
    manifest_sha256: str
    context_length: int
    first: int
    count: int


class Preview(BaseModel):
    """The rendered examples, or the reason why they are not shown."""

    conversations: list[ShownConversation] = []
    problem: str | None = None


def preview(request: PreviewRequest) -> Preview:
    """Render examples. Call this only in the main thread."""
    try:
        with cpu_limit(REQUEST_CPU_SECONDS):
            return Preview(conversations=_conversations(request))
    except CpuTimeExceeded:
        return Preview(problem="The chat template takes too long to render the examples.")
    except (FileNotFoundError, ArtifactCorrupt, ChatRefused) as error:
        return Preview(problem=without_paths(str(error))[:REFUSAL_CHARACTERS])


def _conversations(request: PreviewRequest) -> list[ShownConversation]:
    artifacts = _store(request.artifacts)
    base = _tokenizer(artifacts, request.base_ref, request.manifest_sha256)
    chunks = artifacts.stream(request.dataset_ref)
    lines = lines_from(chunks, request.first - 1, request.count)
    return shown_conversations(base, lines, request.first, request.context_length)


@lru_cache(maxsize=1)
def _store(url: str) -> Artifacts:
    return Artifacts(url)


@lru_cache(maxsize=KEPT_TOKENIZERS)
def _tokenizer(artifacts: Artifacts, ref: str, manifest_sha256: str) -> BaseTokenizer:
    return BaseTokenizer.stored(artifacts, ref)


def main() -> None:
    """Handle requests until the end of standard input."""
    confine(LIMITS)
    for line in sys.stdin.buffer:
        try:
            answer = preview(PreviewRequest.model_validate_json(line))
        except MemoryError:
            _write(
                Preview(problem="The chat template needs too much memory to render the examples.")
            )
            return
        _write(answer)


def _write(answer: Preview) -> None:
    sys.stdout.buffer.write(answer.model_dump_json().encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
