"""Datasets with their status and counts, and which counts are still to be made."""

from __future__ import annotations

from uuid import uuid4

from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from domain.datasets.dataset import Dataset
from domain.training.token_lengths import TokenLengths
from infrastructure.store import Connection
from projections import BASE_MODELS, DATASETS
from projections.datasets import dataset, datasets_of, token_counts, uncounted, uncounted_of
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID, DATASET_ID
from tests.builders.history import History
from tests.builders.tiny_model import TINY_SHAPE
from tests.projections.conftest import Fold


def count(log: EventLog, base: str, manifest_sha256: str, lengths: TokenLengths) -> None:
    with command(f"count {base} {manifest_sha256}"):
        counted = log.load(Dataset, DATASET_ID)
        counted.record_tokens(base, manifest_sha256, lengths)
        log.commit(counted)


def test_an_upload_is_validating(
    log: EventLog, pool: ConnectionPool[Connection], fold: Fold
) -> None:
    with command("upload"):
        log.commit(Dataset.uploaded(DATASET_ID, ACCOUNT_ID, "uploads/a", "a" * 64, 1000))
    fold(DATASETS)
    with pool.connection() as connection:
        (row,) = datasets_of(connection, ACCOUNT_ID)
    assert (row["status"], row["total_bytes"], row["examples"]) == ("validating", 1000, None)


def test_a_valid_dataset_has_its_counts(
    pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.prepare_dataset()
    fold(DATASETS)
    with pool.connection() as connection:
        row = dataset(connection, ACCOUNT_ID, DATASET_ID)
    assert row is not None
    assert row["status"] == "ready_for_training"
    assert (row["examples"], row["duplicates"], row["errors"]) == (100, 3, 0)
    assert row["sha256"] == "d" * 64, "of what will be trained on, not of what was uploaded"


def test_a_rejected_dataset_has_its_errors_and_its_report(
    log: EventLog, pool: ConnectionPool[Connection], fold: Fold
) -> None:
    with command("upload"):
        rejected = Dataset.uploaded(DATASET_ID, ACCOUNT_ID, "uploads/a", "a" * 64, 1000)
        rejected.reject(7, "datasets/a/report")
        log.commit(rejected)
    fold(DATASETS)
    with pool.connection() as connection:
        row = dataset(connection, ACCOUNT_ID, DATASET_ID)
    assert row is not None
    assert (row["status"], row["errors"], row["report_ref"]) == (
        "rejected",
        7,
        "datasets/a/report",
    )


def test_another_account_sees_nothing_of_it(
    pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.prepare_dataset()
    fold(DATASETS)
    with pool.connection() as connection:
        assert dataset(connection, uuid4(), DATASET_ID) is None


def test_every_base_needs_a_count_and_every_new_revision_again(
    log: EventLog, pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.prepare_dataset()
    base = history.import_base()

    def missing() -> list[tuple[str, str]]:
        fold(DATASETS, BASE_MODELS)
        with pool.connection() as connection:
            rows = uncounted(connection)
        return [(row["base_model"], row["manifest_sha256"]) for row in rows]

    assert missing() == [("tiny", "b" * 64)]
    count(log, "tiny", "b" * 64, TokenLengths.of([20, 30]))
    assert missing() == []
    with command("revise"):
        base.revise("models/tiny-2", "e" * 64, "llama", 60_000, 512, TINY_SHAPE)
        log.commit(base)
    assert missing() == [("tiny", "e" * 64)]
    with pool.connection() as connection:
        (pair,) = uncounted_of(connection, [DATASET_ID])
        assert pair == {"dataset_id": DATASET_ID, "base_model": "tiny"}
        assert uncounted_of(connection, [uuid4()]) == []
    count(log, "tiny", "e" * 64, TokenLengths.of([25, 35]))
    assert missing() == []
    with pool.connection() as connection:
        assert token_counts(connection, [DATASET_ID]) == [
            {
                "dataset_id": DATASET_ID,
                "base_model": "tiny",
                "tokens": 60,
                "longest_example": 35,
            }
        ]


def test_of_a_deleted_dataset_nothing_is_left(
    log: EventLog, pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.prepare_dataset()
    count(log, "tiny", "r1", TokenLengths.of([50, 50]))
    with command("delete"):
        deleted = log.load(Dataset, DATASET_ID)
        deleted.delete(used_by=[])
        log.commit(deleted)
    fold(DATASETS)
    with pool.connection() as connection:
        assert dataset(connection, ACCOUNT_ID, DATASET_ID) is None
        assert token_counts(connection, [DATASET_ID]) == []
