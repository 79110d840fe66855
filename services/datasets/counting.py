"""Keeps every ready dataset counted in tokens of every base model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from uuid import UUID

from psycopg_pool import ConnectionPool

from domain.aggregate import Cause, because
from domain.dataset import Dataset, DatasetStatus
from domain.event_log import EventLog
from infrastructure.artifacts import Artifacts
from infrastructure.base_tokenizer import BaseTokenizer
from infrastructure.clock import Clock
from infrastructure.lines import lines_of
from infrastructure.postponed import Postponed
from infrastructure.store import Connection
from infrastructure.template_rendering import ChatRefused
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
    ) -> None:
        self._log = log
        self._clock = clock
        self._artifacts = artifacts
        self._pool = pool
        self._postponed = Postponed[Pair]()
        self._logger = logging.getLogger("counting")

    def count_missing(self) -> None:
        """Count every pair of dataset and base that has no count.

        A refusal by a chat template is recorded; a pair that fails otherwise is tried again later,
        as a store that is away comes back, and a base that is damaged may be mended.
        """
        waiting = self._postponed.waiting(self._clock.now())
        with self._pool.connection() as connection:
            rows = uncounted(connection, limit=LOOK_AT + len(waiting))
        for row in rows:
            dataset = self._log.load(Dataset, row["dataset_id"])
            base = (row["base_model"], row["manifest_sha256"])
            known = dataset.is_counted(*base) or dataset.why_uncountable(*base) is not None
            if not known and (dataset.id, *base) not in waiting:
                self._count(dataset, row)

    def _count(self, dataset: Dataset, row: dict[str, Any]) -> None:
        base = (row["base_model"], row["manifest_sha256"])
        try:
            tokenizer = BaseTokenizer.stored(self._artifacts, row["base_ref"])
            lengths = count_tokens(lines_of(self._artifacts.stream(dataset.ref)), tokenizer)
        except ChatRefused as refusal:
            self._logger.warning("dataset %s, base %s: %s", dataset.id, base[0], refusal)
            example = refusal.example  # the name of the exception ends with its block
            self._record(row, lambda dataset: dataset.refuse_tokens(*base, example))
        except Exception:
            pause = self._postponed.put_off((dataset.id, *base), self._clock.now())
            self._logger.exception(
                "dataset %s cannot be counted with %s now; again in %s", dataset.id, base[0], pause
            )
        else:
            self._postponed.settled((dataset.id, *base))
            self._record(row, lambda dataset: dataset.record_tokens(*base, lengths))

    def _record(self, row: dict[str, Any], say: Callable[[Dataset], None]) -> None:
        """Say of a dataset what was found out about a pair."""

        def attempt() -> None:
            command_id = f"count:{row['dataset_id']}:{row['manifest_sha256']}"
            with because(Cause("service:datasets", command_id, self._clock.now())):
                dataset = self._log.load(Dataset, row["dataset_id"])
                if dataset.status is DatasetStatus.DELETED:
                    return
                say(dataset)
                self._log.commit(dataset)

        self._log.retrying(attempt)
