"""Work on datasets in resource-limited processes, such as validation and counting."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar
from uuid import UUID

from psycopg_pool import ConnectionPool

from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from domain.datasets.dataset import Dataset, DatasetStatus
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.store import Connection
from infrastructure.process import fair_work
from infrastructure.process.clock import Clock
from infrastructure.process.fair_work import FairWork
from infrastructure.process.limited_process import (
    Exceeded,
    LimitExceeded,
    Limits,
    ProcessFailed,
    run,
)
from services.datasets.unpacking import Sizes

MOST_FAILURES = 3
"""Number of failures, other than exceeded limits, after which a task ends without a result."""

Key = TypeVar("Key", bound=Hashable)


class Unfinished(Exception):
    """A process exceeded a limit, or failed MOST_FAILURES times, which `exceeded` None means."""

    def __init__(self, exceeded: Exceeded | None) -> None:
        failed = f"It failed {MOST_FAILURES} times."
        super().__init__(f"It exceeded its {exceeded} limit." if exceeded else failed)
        self.exceeded = exceeded


class Resources(NamedTuple):
    """The resources that work on datasets shares."""

    log: EventLog
    clock: Clock
    artifacts: Artifacts
    pool: ConnectionPool[Connection]
    sizes: Sizes


class LimitedWork(ABC, Generic[Key]):
    """Tasks of one kind, by key. Accounts take turns."""

    NAME: ClassVar[str]
    WORKER: ClassVar[str] = "services.datasets.worker"
    """Module of the processes."""
    AT_ONCE: ClassVar[int] = fair_work.AT_ONCE
    """Number of tasks at the same time."""

    def __init__(self, resources: Resources, limits: Limits | None = None) -> None:
        """Create it. By default, the limits of processes grow with the size of the files."""
        self._log, self._clock, self._artifacts, self._pool, self._sizes = resources
        self._limits = limits
        self._logger = logging.getLogger(self.NAME)
        self.work = FairWork[Key](self.NAME, self._clock, self.AT_ONCE)

    @abstractmethod
    def start_waiting(self) -> None:
        """Start the oldest waiting task of each account while threads are free."""

    def _run(
        self,
        request: Mapping[str, Any],
        limits: Limits,
        on_progress: Callable[[dict[str, Any]], object] = lambda _: None,
    ) -> dict[str, Any]:
        """Run a task of the worker in a process. Return its result, or raise as the process did."""
        return run(self.WORKER, request, self._limits or limits, on_progress)

    def _finish(
        self,
        key: Key,
        request: Mapping[str, Any],
        limits: Limits,
        on_progress: Callable[[dict[str, Any]], object] = lambda _: None,
    ) -> dict[str, Any]:
        """Run a worker's task. Raise Unfinished if it has no result; other errors repeat it."""
        try:
            return self._run(request, limits, on_progress)
        except LimitExceeded as error:
            self._logger.warning("%s: %s", key, error)
            raise Unfinished(error.exceeded) from error
        except ProcessFailed as error:
            if self.work.failures(key) + 1 < MOST_FAILURES:
                raise
            self._logger.exception("%s failed %s times", key, MOST_FAILURES)
            raise Unfinished(None) from error

    def _record(
        self, dataset_id: UUID, command_id: str, change: Callable[[Dataset], object]
    ) -> None:
        """Change a dataset by a command. If the dataset was deleted, delete its files."""

        def attempt() -> None:
            with because(Cause("service:datasets", command_id, self._clock.now())):
                dataset = self._log.load(Dataset, dataset_id)
                if dataset.status is DatasetStatus.DELETED:
                    self._artifacts.delete_directory(dataset.home)
                else:
                    change(dataset)
                    self._log.commit(dataset)

        self._log.retrying(attempt)
