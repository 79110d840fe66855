"""Places of the artifact store that belong to a dataset."""

from __future__ import annotations

from domain.datasets.dataset import Dataset


def home(dataset: Dataset) -> str:
    """Artifact prefix of everything that a validation stores."""
    return f"datasets/{dataset.account_id}/{dataset.id}"
