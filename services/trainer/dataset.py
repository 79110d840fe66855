"""The dataset of a segment: fetched, verified, rendered, and split into train and held-out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infrastructure.artifacts import ArtifactCorrupt, Artifacts
from services.trainer.examples import Example, Rendered, Renderer
from services.trainer.failures import BadData
from services.trainer.plan import held_out


class DatasetTooSmall(BadData):
    """Fewer than two trainable conversations: one to train on and one to hold out."""


@dataclass(frozen=True)
class Dataset:
    """Examples to train on and examples never trained on."""

    train: list[Example]
    held_out: list[Example]

    @classmethod
    def split(cls, conversations: list[list[Example]], seed: int) -> Dataset:
        """Split by conversation, so that no conversation is on both sides."""
        if len(conversations) < 2:
            raise DatasetTooSmall(
                f"The dataset has {len(conversations)} trainable conversations; at least 2 are "
                "needed, one to train on and one to hold out for evaluation."
            )
        aside = held_out(len(conversations), seed)
        train, kept = [], []
        for index, examples in enumerate(conversations):
            (kept if index in aside else train).extend(examples)
        return cls(train, kept)


def fetch(artifacts: Artifacts, ref: str, sha256: str, path: Path) -> Path:
    """Copy the dataset artifact to a file; raises ArtifactCorrupt if its hash differs."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for chunk in artifacts.stream(ref):
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != sha256:
        raise ArtifactCorrupt(f"{ref} is not the dataset that was approved")
    return path


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file, one conversation each."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


def prepare(
    path: Path, renderer: Renderer, seed: int, check: Callable[[], None]
) -> tuple[Dataset, Rendered]:
    """Render and split a dataset file; raises DatasetTooSmall. `check` may raise to stop."""
    rendered = renderer.render_all(rows(path), check)
    return Dataset.split(rendered.conversations, seed), rendered
