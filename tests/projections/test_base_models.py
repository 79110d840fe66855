"""Base models: one row for each name, at its present revision."""

from __future__ import annotations

from psycopg_pool import ConnectionPool

from domain.catalog.model_shape import ModelShape
from domain.core.event_log import EventLog
from infrastructure.store import Connection
from projections import BASE_MODELS
from projections.base_models import all_base_models
from tests.builders.commands import command
from tests.builders.history import History
from tests.builders.tiny_model import TINY_SHAPE
from tests.projections.conftest import Fold


def test_base_models_are_listed_by_name(
    pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.import_base("tiny")
    history.import_base("little")
    fold(BASE_MODELS)
    with pool.connection() as connection:
        assert [row["name"] for row in all_base_models(connection)] == ["little", "tiny"]


def test_a_revision_takes_the_place_of_the_one_before(
    log: EventLog, pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    base = history.import_base()
    wider = TINY_SHAPE.model_copy(update={"context_length": 512})
    with command("revise"):
        base.revise("models/tiny-2", "e" * 64, "llama", 60_000, 512, wider)
        log.commit(base)
    fold(BASE_MODELS)
    with pool.connection() as connection:
        (row,) = all_base_models(connection)
    assert (row["ref"], row["manifest_sha256"]) == ("models/tiny-2", "e" * 64)
    assert (row["parameters"], row["context_length"]) == (60_000, 512)
    assert ModelShape.model_validate(row["shape"]) == wider
