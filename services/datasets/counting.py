"""Keeps every ready dataset counted in tokens of every base model."""

from __future__ import annotations

import logging
import tempfile
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from psycopg_pool import ConnectionPool

from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from domain.datasets.dataset import Dataset, DatasetStatus, Uncountable
from domain.training.token_lengths import TokenLengths
from infrastructure.artifacts import Artifacts
from infrastructure.backoff import Postponed
from infrastructure.base_tokenizer import stored_files
from infrastructure.clock import Clock
from infrastructure.limited_process import LimitExceeded, Limits, run
from infrastructure.store import Connection
from projections.datasets import Pair, uncounted
from services.datasets.fair_work import FairWork
from services.datasets.validating import REMEMBERED, WALL_SECONDS_PER_CPU_SECOND, WORKER

AT_ONCE = 2
MEMORY_MIB = 4096
"""Tokenizers need up to 400 bytes for each byte of a line, and a line has up to 8 MiB."""

CPU_SECONDS, CPU_SECONDS_PER_MIB = 60, 8


class Counting:
    """Looks for what lacks a count, so that neither a new dataset nor a new base is missed."""

    def __init__(
        self,
        log: EventLog,
        clock: Clock,
        artifacts: Artifacts,
        pool: ConnectionPool[Connection],
        limits: Limits | None = None,
    ) -> None:
        """Without `limits` they follow from the file's size."""
        self._log = log
        self._clock = clock
        self._artifacts = artifacts
        self._pool = pool
        self._limits = limits
        self._postponed = Postponed[Pair]()
        self._settled = deque[Pair](maxlen=REMEMBERED)
        self._costly = deque[str](maxlen=REMEMBERED)  # manifests of bases that reached a limit
        self._logger = logging.getLogger("counting")
        self.work = FairWork("counting", AT_ONCE)

    def count_missing(self) -> None:
        """Start on one pair of dataset and base of each account, as far as there are threads.

        A refusal by a chat template is recorded, as is a limit that the work reaches; bases that
        reached one come last. A pair that fails otherwise is tried again later: a store that is
        away comes back, and a damaged base may be repaired.
        """
        without = [*self._postponed.waiting(self._clock.now()), *self._settled]
        with self._pool.connection() as connection:
            rows = uncounted(connection, without, list(self._costly))
        self.work.start_in_turn({row["account_id"]: partial(self._count, row) for row in rows})

    def _count(self, row: dict[str, Any]) -> None:
        base = (row["base_model"], row["manifest_sha256"])
        pair = (row["dataset_id"], *base)
        try:
            dataset = self._log.load(Dataset, row["dataset_id"])
            known = dataset.is_counted(*base) or dataset.why_uncountable(*base) is not None
            if dataset.status is DatasetStatus.READY_FOR_TRAINING and not known:
                self._record(row, self._verdict(dataset, row))
        except Exception:
            pause = self._postponed.put_off(pair, self._clock.now())
            self._logger.exception(
                "dataset %s cannot be counted with %s now; again in %s", pair[0], base[0], pause
            )
        else:
            self._postponed.settled(pair)
            self._settled.append(pair)

    def _verdict(self, dataset: Dataset, row: dict[str, Any]) -> Callable[[Dataset], None]:
        """Count; returns what is then recorded of a dataset."""
        base = (row["base_model"], row["manifest_sha256"])
        try:
            answer = self._counted(dataset, row["base_ref"])
        except LimitExceeded as error:
            answer = {"refused": None, "reason": error.exceeded}
        if "lengths" in answer:
            lengths = TokenLengths(**answer["lengths"])
            return lambda dataset: dataset.record_tokens(*base, lengths)
        example, reason = answer["refused"], Uncountable(answer["reason"])
        if reason is not Uncountable.REFUSED:
            self._costly.append(row["manifest_sha256"])
        self._logger.warning("dataset %s, base %s: %s %s", dataset.id, base[0], reason, answer)
        return lambda dataset: dataset.refuse_tokens(*base, example, reason)

    def _counted(self, dataset: Dataset, base_ref: str) -> dict[str, Any]:
        """The worker's answer; raises what it raises, and what the store raises."""
        with tempfile.TemporaryDirectory() as directory:
            base = Path(directory) / "base"
            base.mkdir()
            for name, content in stored_files(self._artifacts, base_ref).items():
                (base / name).write_bytes(content)
            examples = self._artifacts.local_file(dataset.ref, Path(directory))
            request = {"task": "count", "examples": str(examples), "base": str(base)}
            limits = self._limits or limits_for(examples.stat().st_size)
            return run(WORKER, request, limits)

    def _record(self, row: dict[str, Any], say: Callable[[Dataset], None]) -> None:
        """Record what was found out about a pair."""

        def attempt() -> None:
            command_id = f"count:{row['dataset_id']}:{row['manifest_sha256']}"
            with because(Cause("service:datasets", command_id, self._clock.now())):
                dataset = self._log.load(Dataset, row["dataset_id"])
                if dataset.status is DatasetStatus.DELETED:
                    return
                say(dataset)
                self._log.commit(dataset)

        self._log.retrying(attempt)


def limits_for(size: int) -> Limits:
    """The limits for a normalised file of `size` bytes."""
    cpu_seconds = CPU_SECONDS + CPU_SECONDS_PER_MIB * size // 1024**2
    return Limits(cpu_seconds, WALL_SECONDS_PER_CPU_SECOND * cpu_seconds, MEMORY_MIB)
