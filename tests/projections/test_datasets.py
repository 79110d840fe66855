"""Datasets with their status and counts, and the counts that are missing."""

from __future__ import annotations

from uuid import uuid4

from domain.catalog.base_model import BaseModel
from domain.datasets.dataset import Dataset
from domain.training.token_lengths import TokenLengths
from infrastructure.datasets.wanted_counts import want_count
from infrastructure.postgres.store import Connection
from projections import BASE_MODELS, DATASETS
from projections.datasets import (
    dataset,
    datasets_of,
    token_counts,
    uncounted,
    uncounted_of,
    wanted_ahead,
)
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID, DATASET_ID, revision
from tests.builders.history import History
from tests.projections.conftest import Fold


def count(history: History, manifest_sha256: str, *lengths: int) -> None:
    with command(f"count {manifest_sha256}"):
        counted = history.log.load(Dataset, DATASET_ID)
        counted.record_tokens("tiny", manifest_sha256, TokenLengths.of(lengths))
        history.log.commit(counted)


def test_a_dataset_is_validating_until_it_is_rejected(history: History, fold: Fold) -> None:
    with command("upload"):
        upload = Dataset.uploaded(DATASET_ID, ACCOUNT_ID, "uploads/a", "a" * 64, 1000)
        history.log.commit(upload)
    (row,) = datasets_of(fold(DATASETS), ACCOUNT_ID)
    assert (row["status"], row["total_bytes"], row["examples"]) == ("validating", 1000, None)
    with command("reject"):
        upload.reject(7, "datasets/a/report")
        history.log.commit(upload)
    (row,) = datasets_of(fold(DATASETS), ACCOUNT_ID)
    assert (row["status"], row["errors"], row["report_ref"]) == ("rejected", 7, "datasets/a/report")


def test_a_valid_dataset_has_its_counts_and_the_hash_of_its_examples(
    history: History, fold: Fold
) -> None:
    history.prepare_dataset()
    row = dataset(fold(DATASETS), ACCOUNT_ID, DATASET_ID)
    assert row is not None
    assert (row["status"], row["sha256"]) == ("ready_for_training", "d" * 64)
    assert (row["examples"], row["duplicates"], row["errors"]) == (100, 3, 0)
    assert dataset(fold(), uuid4(), DATASET_ID) is None


def test_each_revision_of_a_base_model_needs_a_count(
    history: History, fold: Fold, connection: Connection
) -> None:
    def missing() -> list[str]:
        rows = uncounted(fold(DATASETS, BASE_MODELS))
        return [row["manifest_sha256"] for row in rows]

    history.prepare_dataset()
    base = history.import_base()
    assert missing() == ["b" * 64]
    count(history, "b" * 64, 20, 30)
    assert missing() == []
    with command("revise"):
        base.revise(revision(ref="models/tiny-2", manifest_sha256="e" * 64))
        history.log.commit(base)
    assert missing() == ["e" * 64]
    pair = {"dataset_id": DATASET_ID, "base_model": "tiny"}
    assert uncounted_of(connection, [DATASET_ID]) == [pair]
    assert uncounted_of(connection, [uuid4()]) == []
    count(history, "e" * 64, 25, 35)
    assert missing() == []
    assert token_counts(connection, [DATASET_ID]) == [pair | {"tokens": 60, "longest_example": 35}]


def test_wanted_counts_come_first(history: History, fold: Fold, connection: Connection) -> None:
    history.prepare_dataset()
    for number, name in enumerate("abc"):
        with command(f"import {name}"):
            history.log.commit(BaseModel.imported(name, revision(manifest_sha256=f"{number}" * 64)))
    fold(DATASETS, BASE_MODELS)
    assert uncounted(connection)[0]["base_model"] == "a"
    for name in "cbc":
        want_count(connection, DATASET_ID, name)
        connection.commit()  # the time is that of the transaction
    costly = ["2" * 64]
    (row,) = uncounted(connection, last=costly)
    assert (row["base_model"], row["late"]) == ("c", True)
    ahead = [wanted_ahead(connection, DATASET_ID, name)[0] for name in "cba"]
    assert ahead == [1, 2, 0]
    with command("count"):
        counted = history.log.load(Dataset, DATASET_ID)
        counted.record_tokens("c", "2" * 64, TokenLengths.of([20]))
        history.log.commit(counted)
    fold(DATASETS)
    assert uncounted(connection)[0]["base_model"] == "b"
    pairs, size = wanted_ahead(connection, DATASET_ID, "b")
    assert (pairs, size > 0) == (1, True)


def test_a_deleted_dataset_has_no_rows(history: History, fold: Fold) -> None:
    history.prepare_dataset()
    count(history, "r1", 50, 50)
    with command("delete"):
        deleted = history.log.load(Dataset, DATASET_ID)
        deleted.delete(used_by=[])
        history.log.commit(deleted)
    assert dataset(fold(DATASETS), ACCOUNT_ID, DATASET_ID) is None
    assert token_counts(fold(), [DATASET_ID]) == []
