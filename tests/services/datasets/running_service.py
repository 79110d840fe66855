"""The datasets service and its inputs, for tests."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

from psycopg_pool import ConnectionPool

from domain.catalog.base_model import BaseModel
from domain.core.event_log import EventLog
from domain.datasets.dataset import Dataset
from infrastructure.artifacts import Artifacts
from infrastructure.consumer import OrderedConsumer
from infrastructure.reaction import ReactionEffect
from infrastructure.store import Connection
from projections import BASE_MODELS, DATASETS
from projections.projection import ProjectionEffect
from services.datasets.counting import Counting
from services.datasets.handlers import Cleaning
from services.datasets.validating import Validating
from tests.builders.tiny_model import CHAT_TEMPLATE, TINY_SHAPE, make_tiny_tokenizer
from tests.command_context import FixedClock, command
from tests.domain.examples import ACCOUNT_ID
from tests.polling import TIMEOUT_SECONDS
from tests.services.datasets.uploads import ASSISTANT, USER, chat, jsonl

VALID = jsonl(chat(USER, ASSISTANT), chat(USER, ASSISTANT | {"content": "Rome."}))


class Service:
    """The service's reactions and validation, as in its process."""

    def __init__(
        self,
        log: EventLog,
        pool: ConnectionPool[Connection],
        artifacts: Artifacts,
        clock: FixedClock,
        max_bytes: int,
    ) -> None:
        cleaning = Cleaning(log, artifacts, pool)
        effect = ReactionEffect("datasets", log, clock, cleaning.react, pool.connection)
        self.consumer = OrderedConsumer(effect, log)
        self.validating = Validating(log, clock, artifacts, pool, max_bytes)
        self._project = partial(project, log, pool)

    def catch_up(self) -> None:
        """Validate all waiting uploads, then run the reactions."""
        for _ in range(10):
            self._project()
            self.validating.validate_waiting()
            assert self.validating.work.finish(TIMEOUT_SECONDS)
        self.consumer.catch_up()


def upload(
    log: EventLog, artifacts: Artifacts, content: bytes, account_id: UUID = ACCOUNT_ID
) -> UUID:
    """Upload a file, as the gateway does."""
    dataset_id = uuid4()
    ref = f"datasets/{account_id}/{dataset_id}/upload"
    artifacts.put(ref, content)
    with command(f"upload {dataset_id}"):
        sha256 = hashlib.sha256(content).hexdigest()
        log.commit(Dataset.uploaded(dataset_id, account_id, ref, sha256, len(content)))
    return dataset_id


def import_base(
    log: EventLog,
    artifacts: Artifacts,
    directory: Path,
    name: str = "tiny",
    template: str = CHAT_TEMPLATE,
) -> BaseModel:
    """A base with only a tokenizer, which is enough for counting."""
    make_tiny_tokenizer(template).save_pretrained(directory)
    manifest = artifacts.put_directory(f"models/{name}", directory)
    with command(f"import {name}"):
        base = BaseModel.imported(
            name, f"models/{name}", manifest.sha256, "llama", 1, 256, TINY_SHAPE
        )
        log.commit(base)
    return base


def project(log: EventLog, pool: ConnectionPool[Connection]) -> None:
    for projection in (DATASETS, BASE_MODELS):
        OrderedConsumer(ProjectionEffect(projection, pool.connection), log).catch_up()


def count(counting: Counting) -> None:
    """Count all pairs that are due."""
    for _ in range(10):
        counting.count_missing()
        assert counting.work.finish(TIMEOUT_SECONDS)


def dataset(log: EventLog, dataset_id: UUID) -> Dataset:
    return log.load(Dataset, dataset_id)


def home(dataset_id: UUID) -> str:
    return f"datasets/{ACCOUNT_ID}/{dataset_id}"
