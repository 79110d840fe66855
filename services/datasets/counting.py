"""Keeps every ready dataset counted in tokens of every base model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg_pool import ConnectionPool

from domain.aggregate import Cause, because
from domain.dataset import Dataset
from domain.event_log import EventLog
from infrastructure.artifacts import Artifacts
from infrastructure.clock import Clock
from infrastructure.store import Connection
from projections.datasets import uncounted
from services.datasets.chat_template import ChatRefused
from services.datasets.tokens import count_tokens

Pair = tuple[UUID, str, str]


class Counting:
    """Looks for what lacks a count, so that neither a new dataset nor a new base is missed."""

    def __init__(
        self,
        log: EventLog,
        clock: Clock,
        artifacts: Artifacts,
        pool: ConnectionPool[Connection],
        cache: Path,
    ) -> None:
        self._log = log
        self._clock = clock
        self._artifacts = artifacts
        self._pool = pool
        self._cache = cache
        self._uncountable: set[Pair] = set()
        self._logger = logging.getLogger("counting")

    def count_missing(self) -> None:
        """Count every pair of dataset and base that has no count."""
        with self._pool.connection() as connection:
            rows = uncounted(connection)
        for row in rows:
            pair = (row["dataset_id"], row["base_model"], row["manifest_sha256"])
            if pair in self._uncountable:
                continue
            try:
                self._count(row)
            except (ChatRefused, FileNotFoundError) as error:
                self._uncountable.add(pair)
                self._logger.warning("dataset %s with %s: %s", pair[0], pair[1], error)

    def _count(self, row: dict[str, Any]) -> None:
        directory = self._artifacts.local_directory(row["base_ref"], self._cache)
        dataset = self._log.load(Dataset, row["dataset_id"])
        counts = count_tokens(self._lines(dataset.ref), directory)

        def attempt() -> None:
            command_id = f"count:{dataset.id}:{row['manifest_sha256']}"
            with because(Cause("service:datasets", command_id, self._clock.now())):
                present = self._log.load(Dataset, dataset.id)
                present.record_tokens(
                    row["base_model"],
                    row["manifest_sha256"],
                    counts.total_tokens,
                    counts.longest_tokens,
                )
                self._log.commit(present)

        self._log.retrying(attempt)

    def _lines(self, ref: str) -> Iterator[bytes]:
        rest = b""
        for chunk in self._artifacts.stream(ref):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
        if rest:
            yield rest
