"""The process that renders and tokenises examples for the pages, one request after the other.

Each line of standard input is a request, and is answered with one line. A request has a limit on
its CPU time, and the process one on its memory: it ends after a request that reaches the latter.
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
from infrastructure.artifacts import ArtifactCorrupt, Artifacts
from infrastructure.base_tokenizer import BaseTokenizer
from infrastructure.customer_log import without_paths
from infrastructure.limited_process import CpuTimeExceeded, Limits, confine, cpu_limit
from infrastructure.template_rendering import ChatRefused

KEPT_TOKENIZERS = 2
"""Of the bases that were looked at last; a large one takes a hundred megabytes."""

LIMITS = Limits(cpu_seconds=3600, wall_seconds=60, memory_mib=1024)
"""CPU seconds of the whole life of a process, wall-clock seconds of a request."""

REQUEST_CPU_SECONDS = 5


class PreviewRequest(BaseModel):
    """Examples to show: `count` lines of a dataset from the one numbered `first` (from 1)."""

    artifacts: str  # URL of the store
    dataset_ref: str
    base_ref: str
    manifest_sha256: str
    context_length: int
    first: int
    count: int


class Preview(BaseModel):
    """The examples, or the problem that keeps them from being shown."""

    conversations: list[ShownConversation] = []
    problem: str | None = None


def preview(request: PreviewRequest) -> Preview:
    """Render examples. Main thread only."""
    try:
        with cpu_limit(REQUEST_CPU_SECONDS):
            return Preview(conversations=_conversations(request))
    except CpuTimeExceeded:
        return Preview(problem="rendering them with its chat template takes too long")
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
    """Answer requests until the end of standard input."""
    confine(LIMITS)
    for line in sys.stdin.buffer:
        try:
            answer = preview(PreviewRequest.model_validate_json(line))
        except MemoryError:
            _write(Preview(problem="rendering them needs too much memory"))
            return
        _write(answer)


def _write(answer: Preview) -> None:
    sys.stdout.buffer.write(answer.model_dump_json().encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
