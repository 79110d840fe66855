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
from domain.token_lengths import TokenLengths
from infrastructure.artifacts import Artifacts
from infrastructure.clock import Clock
from infrastructure.store import Connection
from projections.datasets import uncounted
from services.datasets.tokens import count_tokens

LOOK_AT = 100
"""Pairs that are counted in one go; the next look finds the others."""

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
        """Count every pair of dataset and base that has no count.

        A pair that cannot be counted is left out until the service starts again.
        """
        with self._pool.connection() as connection:
            rows = uncounted(connection, limit=LOOK_AT + len(self._uncountable))
        for row in rows:
            pair = (row["dataset_id"], row["base_model"], row["manifest_sha256"])
            dataset = self._log.load(Dataset, row["dataset_id"])
            if dataset.is_counted(pair[1], pair[2]) or pair in self._uncountable:
                continue
            try:
                directory = self._artifacts.local_directory(row["base_ref"], self._cache)
                lengths = count_tokens(self._lines(dataset.ref), directory)
            except Exception:
                self._uncountable.add(pair)
                self._logger.exception("dataset %s cannot be counted with %s", pair[0], pair[1])
            else:
                self._record(row, lengths)

    def _record(self, row: dict[str, Any], lengths: TokenLengths) -> None:
        def attempt() -> None:
            command_id = f"count:{row['dataset_id']}:{row['manifest_sha256']}"
            with because(Cause("service:datasets", command_id, self._clock.now())):
                dataset = self._log.load(Dataset, row["dataset_id"])
                dataset.record_tokens(row["base_model"], row["manifest_sha256"], lengths)
                self._log.commit(dataset)

        self._log.retrying(attempt)

    def _lines(self, ref: str) -> Iterator[bytes]:
        rest = b""
        for chunk in self._artifacts.stream(ref):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
        if rest:
            yield rest
