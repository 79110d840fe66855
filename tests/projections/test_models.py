"""Models: what was registered, under its name."""

from __future__ import annotations

from psycopg_pool import ConnectionPool

from domain.job import SegmentEnd
from infrastructure.store import Connection
from projections import MODELS
from projections.models import models_of
from tests.causes import NOW
from tests.domain.examples import ACCOUNT_ID, JOB_ID
from tests.projections.conftest import Fold
from tests.stories import Story


def test_a_registered_adapter_is_a_model(
    pool: ConnectionPool[Connection], story: Story, fold: Fold
) -> None:
    story.run_until("training")
    fold(MODELS)
    with pool.connection() as connection:
        assert models_of(connection, ACCOUNT_ID) == []
        story.complete(1)
        fold(MODELS)
        assert models_of(connection, ACCOUNT_ID) == [
            {
                "model": "ft:tiny:222222222222",
                "account_id": ACCOUNT_ID,
                "job_id": JOB_ID,
                "adapter_ref": "jobs/a/adapter",
                "manifest_sha256": "a" * 64,
                "registered_at": NOW,
            }
        ]


def test_a_promoted_adapter_is_a_model(
    pool: ConnectionPool[Connection], story: Story, fold: Fold
) -> None:
    story.run_until("training")
    story.save_checkpoint(1, 10, 40)
    story.cancel()
    story.end_segment(1, SegmentEnd.STOPPED, 60)
    story.promote()
    fold(MODELS)
    with pool.connection() as connection:
        (row,) = models_of(connection, ACCOUNT_ID)
    assert (row["model"], row["adapter_ref"]) == ("ft:tiny:222222222222", "checkpoints/1/10")
    assert row["manifest_sha256"] == "c" * 64
