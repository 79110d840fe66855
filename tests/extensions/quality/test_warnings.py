"""Warnings about the datasets of jobs."""

from __future__ import annotations

from psycopg_pool import ConnectionPool

from extensions.quality.comparisons import ComparisonKind, comparison
from gateway.http.openai_vocabulary import file_name
from infrastructure.postgres.store import Connection
from tests.builders.platform import Platform
from tests.gateway.jobs.test_openai_requests import Early
from tests.gateway.jobs.test_openai_requests import early as early


def test_a_dataset_is_not_compared_with_itself(
    early: Early, platform: Platform, pool: ConnectionPool[Connection]
) -> None:
    platform.validate(early.dataset_id, counted=False)
    platform.project()
    file = file_name(early.dataset_id)
    early.create(training_file=file, validation_file=file)
    key = (early.dataset_id, early.dataset_id, ComparisonKind.CONTAMINATION)
    with pool.connection() as connection:
        assert comparison(connection, key) is None
