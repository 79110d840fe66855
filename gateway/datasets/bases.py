"""A dataset under every base: its lengths, or why there are none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from domain.datasets.dataset import Dataset
from domain.training.token_lengths import TokenLengths
from gateway.backend import Backend
from projections.base_models import all_base_models


@dataclass(frozen=True)
class BaseView:
    """A base, and a dataset's lengths under it: unknown if its template refuses it, or not yet."""

    name: str
    ref: str
    manifest_sha256: str
    context_length: int
    lengths: TokenLengths | None
    refusal: str | None


def base_views(backend: Backend, dataset_id: UUID) -> list[BaseView]:
    """A ready dataset under every base, by name."""
    dataset = backend.log.load(Dataset, dataset_id)
    with backend.pool.connection() as connection:
        bases = all_base_models(connection)
    return [_base_view(dataset, row) for row in bases]


def _base_view(dataset: Dataset, row: dict[str, Any]) -> BaseView:
    revision = (row["name"], row["manifest_sha256"])
    known = dataset.is_counted(*revision)
    return BaseView(
        name=row["name"],
        ref=row["ref"],
        manifest_sha256=row["manifest_sha256"],
        context_length=row["context_length"],
        lengths=dataset.counted[row["name"]].lengths if known else None,
        refusal=dataset.why_uncountable(*revision),
    )
