"""The datasets service and its inputs."""

from __future__ import annotations

from uuid import UUID

import pytest
from psycopg_pool import ConnectionPool

from domain.core.aggregate import because
from domain.core.event_log import EventLog
from domain.datasets.dataset import Dataset
from infrastructure.artifacts.store import Artifacts
from infrastructure.bus.consumer import OrderedConsumer
from infrastructure.bus.event_handlers import EventHandlers, HandlerEffect
from infrastructure.postgres.store import Connection
from infrastructure.process.limited_process import Limits
from infrastructure.settings import Settings
from services.datasets.counting import Counting
from services.datasets.handlers import Cleaning
from services.datasets.limited_work import Resources
from services.datasets.report import Report
from services.datasets.unpacking import Sizes
from services.datasets.validating import Validating, home, refs_of
from tests.builders.commands import FixedClock
from tests.builders.examples import ACCOUNT_ID
from tests.builders.platform import Platform
from tests.polling import TIMEOUT_SECONDS
from tests.services.datasets.uploads import VALID


class Service:
    """The datasets service with its event handlers and its work, as in its process."""

    def __init__(self, platform: Platform, pool: ConnectionPool[Connection]) -> None:
        self.platform, self.pool, self.clock = platform, pool, FixedClock()
        handlers = EventHandlers(Cleaning(platform.log, platform.artifacts, pool).handlers)
        effect = HandlerEffect("datasets", platform.log, self.clock, handlers, pool.connection)
        self.consumer = OrderedConsumer(effect, platform.log)
        self.limit()

    def limit(self, limits: Limits | None = None, max_bytes: int = 10**9) -> None:
        """Start validation and counting with other limits."""
        self.resources = Resources(
            *(self.platform.log, self.clock, self.platform.artifacts, self.pool),
            Sizes(max_bytes, 10**10),
        )
        self.validating = Validating(self.resources, limits)
        self.counting = Counting(self.resources, limits)

    def upload(self, content: bytes = VALID, account_id: UUID = ACCOUNT_ID) -> UUID:
        return self.platform.upload(account_id, content)

    def delete(self, dataset_id: UUID) -> None:
        with because(self.platform.cause):
            deleted = self.dataset(dataset_id)
            deleted.delete(used_by=[])
            self.platform.log.commit(deleted)

    def dataset(self, dataset_id: UUID) -> Dataset:
        return self.platform.log.load(Dataset, dataset_id)

    def counted(self, dataset_id: UUID) -> set[str]:
        """Return the names of the base models that have a count."""
        return set(self.dataset(dataset_id).counted)

    def files(self, dataset_id: UUID) -> list[str]:
        return self.platform.artifacts.list(home(self.dataset(dataset_id)))

    def report(self, dataset_id: UUID) -> Report:
        report_ref, _ = refs_of(self.dataset(dataset_id))
        return Report.model_validate_json(self.platform.artifacts.get(report_ref))

    def validate(self) -> None:
        """Start the validations that are due, and wait for them."""
        self.platform.project()
        self.validating.start_waiting()
        assert self.validating.work.finish(TIMEOUT_SECONDS)

    def catch_up(self) -> None:
        """Validate all uploads, run the event handlers, and project the events."""
        for _ in range(10):
            self.validate()
        self.consumer.catch_up()
        self.platform.project()

    def count(self) -> None:
        """Count all pairs that are due."""
        for _ in range(10):
            self.counting.start_waiting()
            assert self.counting.work.finish(TIMEOUT_SECONDS)


@pytest.fixture
def platform(settings: Settings, log: EventLog) -> Platform:
    return Platform(settings, log)


@pytest.fixture
def artifacts(platform: Platform) -> Artifacts:
    return platform.artifacts


@pytest.fixture
def service(platform: Platform, pool: ConnectionPool[Connection]) -> Service:
    return Service(platform, pool)
