"""Loading of a segment's dataset: fetch, verify, render, and split off the held-out part."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domain.estimating.held_out import held_out, validated
from infrastructure.artifacts.store import ArtifactCorrupt, Artifacts
from infrastructure.datasets.preference_columns import conversations_of
from infrastructure.training.reports import SegmentSpec
from services.trainer.examples import Rendered, Renderer
from services.trainer.failures import BadData
from services.trainer.pairs import Item


class DatasetTooSmall(BadData):
    """The dataset has no conversation to train on, or none to evaluate on."""


@dataclass(frozen=True)
class Dataset:
    train: list[Item]
    held_out: list[Item]
    question: dict[str, Any]  # first held-out conversation; of a pair, that of the preferred answer


def read(
    spec: SegmentSpec,
    artifacts: Artifacts,
    scratch: Path,
    renderer: Renderer,
    check: Callable[[], None],
) -> tuple[Dataset, str]:
    """Return the dataset of a segment, and a summary of its rendering for the log.

    `check`, which may raise an error, runs before each row. Raise ArtifactCorrupt if a hash
    differs, and DatasetTooSmall if too few conversations remain.
    """
    seed = spec.hyperparameters.seed
    path, validation_path = scratch / "dataset.jsonl", scratch / "validation.jsonl"
    _fetch(artifacts, spec.dataset_ref, spec.dataset_sha256, path)
    if spec.validation_ref is None or spec.validation_sha256 is None:
        return _split(path, renderer, seed, check)
    _fetch(artifacts, spec.validation_ref, spec.validation_sha256, validation_path)
    return _with_validation(path, validation_path, renderer, seed, check)


def _rows(path: Path, chosen: Collection[int] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSONL file with the chosen numbers (from 0); None: all."""
    for number, line in enumerate(_lines(path)):
        if chosen is None or number in chosen:
            yield json.loads(line)


def _question(path: Path, row: int) -> dict[str, Any]:
    return conversations_of(next(_rows(path, {row})))[0]


def _split(
    path: Path, renderer: Renderer, seed: int, check: Callable[[], None]
) -> tuple[Dataset, str]:
    rendered = renderer.render_all(_rows(path), check)
    conversations = rendered.conversations
    if len(conversations) < 2:
        count = "Only 1 conversation" if conversations else "No conversation"
        raise DatasetTooSmall(
            f"{count} of the dataset has a trainable token within {renderer.max_tokens:,} tokens. "
            "Training needs at least 2: one to train on and one to evaluate. Use a larger dataset "
            f"or a longer max sequence length. Training dropped these rows: {rendered.dropped}."
        )
    held_out_indices = held_out(len(conversations), seed)
    train, kept = [], []
    for index, examples in enumerate(conversations):
        (kept if index in held_out_indices else train).extend(examples)
    question = _question(path, rendered.rows[min(held_out_indices)])
    return Dataset(train, kept, question), str(rendered)


def _with_validation(
    path: Path, validation_path: Path, renderer: Renderer, seed: int, check: Callable[[], None]
) -> tuple[Dataset, str]:
    """Render the training file and the validation file. Sample the latter if it is long."""
    rendered = renderer.render_all(_rows(path), check)
    count = sum(1 for _ in _lines(validation_path))
    chosen = validated(count, seed)
    validation = renderer.render_all(_rows(validation_path, frozenset(chosen)), check)
    question = _question(validation_path, chosen[validation.rows[0]]) if validation.rows else {}
    dataset = Dataset(
        _examples(rendered, "dataset"), _examples(validation, "validation dataset"), question
    )
    return dataset, (
        f"{rendered}\nevaluated on {len(chosen):,} of the validation dataset's {count:,} "
        f"conversations: {validation}"
    )


def _fetch(artifacts: Artifacts, ref: str, sha256: str, path: Path) -> None:
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for chunk in artifacts.stream(ref):
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != sha256:
        raise ArtifactCorrupt(
            f"{ref} is not the approved dataset: its SHA-256 differs from {sha256}."
        )


def _examples(rendered: Rendered, name: str) -> list[Item]:
    if not rendered.conversations:
        raise DatasetTooSmall(
            f"The {name} has no conversation with a trainable token after the trainer applies "
            "the chat template and the max sequence length. Choose another dataset or a "
            "longer max sequence length."
        )
    return [example for examples in rendered.conversations for example in examples]


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield line
