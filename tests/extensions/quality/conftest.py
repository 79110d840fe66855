"""The datasets service with the work of this extension."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from psycopg_pool import ConnectionPool

from extensions.quality.analyzing import Analyzing, unanalyzed
from extensions.quality.comparing import Comparing
from extensions.quality.comparisons import waiting_comparisons
from extensions.quality.filtering import Filtering
from extensions.quality.process_limits import TASKS
from extensions.quality.worker import tasks
from infrastructure.postgres.store import Connection
from infrastructure.process.limited_process import Limits
from services.datasets import limited_work
from tests.builders.platform import Platform
from tests.gateway.cli.conftest import url as url
from tests.gateway.datasets.conftest import pages as pages
from tests.polling import TIMEOUT_SECONDS
from tests.services.datasets.conftest import Service


class QualityService(Service):
    """The datasets service, which also analyzes, filters and compares."""

    def limit(self, limits: Limits | None = None, max_bytes: int = 10**9) -> None:
        super().limit(limits, max_bytes)
        self.analyzing = Analyzing(self.resources, limits)
        self.filtering = Filtering(self.resources, limits)
        self.comparing = Comparing(self.resources, limits)

    def validate(self) -> None:
        super().validate()
        self.filtering.start_waiting()
        assert self.filtering.work.finish(TIMEOUT_SECONDS)

    def analyze(self) -> None:
        """Analyze all valid datasets that are due, and project the results."""
        while True:
            self.platform.project()
            with self.pool.connection() as connection:
                if not unanalyzed(connection, self.analyzing.work.excluded):
                    return
            self.analyzing.start_waiting()
            assert self.analyzing.work.finish(TIMEOUT_SECONDS)

    def clean(self) -> None:
        """Delete the comparisons of deleted datasets, as after a restart."""
        self.limit()
        self.comparing.start_waiting()

    def compare(self) -> None:
        """Make all requested comparisons that are due."""
        while True:
            with self.pool.connection() as connection:
                if not waiting_comparisons(connection, self.comparing.work.waiting):
                    return
            self.comparing.start_waiting()
            assert self.comparing.work.finish(TIMEOUT_SECONDS)


@pytest.fixture
def service(platform: Platform, pool: ConnectionPool[Connection]) -> QualityService:
    return QualityService(platform, pool)


@pytest.fixture
def analyses_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Analyze and compare in the process of the test, which does not import presidio each time."""
    in_a_process = limited_work.run

    def run(
        module: str,
        asked: dict[str, Any],
        limits: Limits,
        on_progress: Callable[[dict[str, Any]], None],
    ) -> dict[str, Any]:
        if module != TASKS or asked["task"] == "filter":
            return in_a_process(module, asked, limits, on_progress)
        result = tasks.handle(json.loads(json.dumps(asked)), lambda made: on_progress(dict(made)))
        return json.loads(json.dumps(result))

    monkeypatch.setattr(tasks, "without_unused_libraries", lambda: None)
    monkeypatch.setattr(limited_work, "run", run)
