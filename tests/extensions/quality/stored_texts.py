"""A report, a filtered version and comparisons, for the test of keys that may not read datasets."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from tests.extensions.quality.conftest import QualityService

PLACES = {"GET /api/datasets/*/quality"}


def add(canary: Any, _word: str) -> None:
    """Analyze, filter and compare the datasets, whose texts have the word."""
    service = QualityService(canary.platform, canary.pool)
    service.catch_up()
    service.analyze()
    filters = {"filters": {"personal_data": "mask"}, "name": "clean"}
    new = canary.send("POST", f"/api/datasets/{canary.dataset}/filters", json=filters)["id"]
    service.catch_up()
    compared = (
        f"/api/datasets/{canary.dataset}/contamination?validation_dataset={canary.validation}",
        f"/api/datasets/{new}/difference",
    )
    for path in compared:
        canary.send("GET", path)
        service.compare()
        assert canary.send("GET", path)["state"] == "done"
    canary.ids["dataset_id"].add(new)
    canary.ids["file_id"].add(f"file-{UUID(new).hex}")
