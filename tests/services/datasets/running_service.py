"""The datasets service and its inputs, for tests."""

from __future__ import annotations

import hashlib
from pathlib import Path
from uuid import UUID, uuid4

from psycopg_pool import ConnectionPool

from domain.catalog.base_model import BaseModel
from domain.core.event_log import EventLog
from domain.datasets.dataset import Dataset
from infrastructure.artifacts import Artifacts
from infrastructure.consumer import OrderedConsumer
from infrastructure.event_handlers import HandlerEffect
from infrastructure.limited_process import Limits
from infrastructure.store import Connection
from projections import BASE_MODELS, DATASETS
from projections.projection import ProjectionEffect
from services.datasets.counting import Counting
from services.datasets.handlers import Cleaning
from services.datasets.report import Report
from services.datasets.validating import Validating
from tests.builders.commands import FixedClock, command
from tests.builders.examples import ACCOUNT_ID
from tests.builders.tiny_model import CHAT_TEMPLATE, TINY_SHAPE, make_tiny_tokenizer
from tests.polling import TIMEOUT_SECONDS
from tests.services.datasets.uploads import ASSISTANT, USER, chat, jsonl

VALID = jsonl(chat(USER, ASSISTANT), chat(USER, ASSISTANT | {"content": "Rome."}))


class Service:
    """The datasets service with its event handlers and its work, as in its process."""

    def __init__(
        self,
        log: EventLog,
        pool: ConnectionPool[Connection],
        artifacts: Artifacts,
        clock: FixedClock,
        max_bytes: int,
    ) -> None:
        self.log, self.pool, self.artifacts, self.clock = log, pool, artifacts, clock
        cleaning = Cleaning(log, artifacts, pool)
        effect = HandlerEffect("datasets", log, clock, cleaning.handle, pool.connection)
        self.consumer = OrderedConsumer(effect, log)
        self.validating = Validating(log, clock, artifacts, pool, max_bytes)
        self.counting = Counting(log, clock, artifacts, pool)

    def upload(self, content: bytes, account_id: UUID = ACCOUNT_ID) -> UUID:
        """Upload a file, as the gateway does."""
        dataset_id = uuid4()
        ref = f"datasets/{account_id}/{dataset_id}/upload"
        self.artifacts.put(ref, content)
        with command(f"upload {dataset_id}"):
            sha256 = hashlib.sha256(content).hexdigest()
            dataset = Dataset.uploaded(dataset_id, account_id, ref, sha256, len(content))
            self.log.commit(dataset)
        return dataset_id

    def import_base(
        self, directory: Path, name: str = "tiny", template: str = CHAT_TEMPLATE
    ) -> BaseModel:
        """A base with only a tokenizer, which is enough for counting."""
        make_tiny_tokenizer(template).save_pretrained(directory)
        manifest = self.artifacts.put_directory(f"models/{name}", directory)
        with command(f"import {name}"):
            base = BaseModel.imported(
                name, f"models/{name}", manifest.sha256, "llama", 1, 256, TINY_SHAPE
            )
            self.log.commit(base)
        return base

    def delete(self, dataset_id: UUID) -> None:
        """Delete a dataset, as the gateway does."""
        with command("delete"):
            deleted = self.dataset(dataset_id)
            deleted.delete(used_by=[])
            self.log.commit(deleted)

    def dataset(self, dataset_id: UUID) -> Dataset:
        return self.log.load(Dataset, dataset_id)

    def report(self, dataset_id: UUID) -> Report:
        """The stored report of a validation."""
        content = self.artifacts.get(f"{home(dataset_id)}/report.json")
        return Report.model_validate_json(content)

    def limited(self, limits: Limits) -> tuple[Validating, Counting]:
        """Validation and counting with other limits."""
        common = self.log, self.clock, self.artifacts, self.pool
        return Validating(*common, 10**9, limits), Counting(*common, limits)

    def project(self) -> None:
        for projection in (DATASETS, BASE_MODELS):
            OrderedConsumer(ProjectionEffect(projection, self.pool.connection), self.log).catch_up()

    def catch_up(self) -> None:
        """Validate all waiting uploads, run the event handlers, and project the events."""
        for _ in range(10):
            self.project()
            self.validating.validate_waiting()
            assert self.validating.work.finish(TIMEOUT_SECONDS)
        self.consumer.catch_up()
        self.project()

    def count(self, counting: Counting | None = None) -> None:
        """Count all pairs that are due."""
        counting = counting or self.counting
        for _ in range(10):
            counting.count_missing()
            assert counting.work.finish(TIMEOUT_SECONDS)


def home(dataset_id: UUID) -> str:
    return f"datasets/{ACCOUNT_ID}/{dataset_id}"
