"""Token counts of each valid dataset for each base model, in resource-limited processes."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from domain.datasets.dataset import Dataset, DatasetStatus, Uncountable
from domain.training.token_lengths import TokenLengths
from infrastructure.chat.base_tokenizer import stored_files
from infrastructure.process.fair_work import REMEMBERED_KEYS
from infrastructure.process.limited_process import LimitExceeded, Limits
from projections.datasets import Pair, uncounted
from services.datasets.limited_work import LimitedWork, Resources

MEMORY_MIB = 4096
"""Memory limit. Tokenizers need up to 400 bytes per byte of a line, which has up to 8 MiB."""

CPU_SECONDS, CPU_SECONDS_PER_MIB = 60, 8


class Counting(LimitedWork[Pair]):
    """A token counter for the pairs of dataset and base model that have no count yet."""

    NAME = "counting"

    def __init__(self, resources: Resources, limits: Limits | None = None) -> None:
        super().__init__(resources, limits)
        # Manifests of base models that exceeded a limit.
        self._costly = deque[str](maxlen=REMEMBERED_KEYS)

    def start_waiting(self) -> None:
        """Start counting one pair per account while threads are free.

        If the chat template rejects an example, or counting exceeds a limit, the dataset records
        it. Base models that exceeded a limit are counted last. After any other failure, such as an
        unreachable store, the counter retries later.
        """
        with self._pool.connection() as connection:
            rows = uncounted(connection, list(self.work.excluded), list(self._costly))
        self.work.start_in_turn(
            {
                row["account_id"]: (
                    pair := (row["dataset_id"], row["base_model"], row["manifest_sha256"]),
                    partial(self._count, pair, row["base_ref"]),
                )
                for row in rows
            }
        )

    def _count(self, pair: Pair, base_ref: str) -> None:
        dataset_id, name, sha256 = pair
        dataset = self._log.load(Dataset, dataset_id)
        ended = dataset.is_counted(name, sha256) or dataset.is_refused(name, sha256)
        if dataset.status is DatasetStatus.READY_FOR_TRAINING and not ended:
            change = self._verdict(dataset, pair, base_ref)
            self._record(dataset_id, f"count:{dataset_id}:{sha256}", change)

    def _verdict(self, dataset: Dataset, pair: Pair, base_ref: str) -> Callable[[Dataset], None]:
        """Count the tokens. Return a function that records the result in a dataset."""
        _, name, sha256 = pair
        try:
            answer = self._counted(dataset, base_ref)
        except LimitExceeded as error:
            answer = {"refused": None, "reason": error.exceeded}
        if "lengths" in answer:
            lengths = TokenLengths(**answer["lengths"])
            return lambda dataset: dataset.record_tokens(name, sha256, lengths)
        example, reason = answer["refused"], Uncountable(answer["reason"])
        if reason is not Uncountable.REFUSED:
            self._costly.append(sha256)
        self._logger.warning("dataset %s, base %s: %s %s", dataset.id, name, reason, answer)
        return lambda dataset: dataset.refuse_tokens(name, sha256, example, reason)

    def _counted(self, dataset: Dataset, base_ref: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as directory:
            base = Path(directory) / "base"
            base.mkdir()
            for name, content in stored_files(self._artifacts, base_ref).items():
                (base / name).write_bytes(content)
            examples = self._artifacts.local_file(dataset.ref, Path(directory))
            request = {"task": "count", "examples": str(examples), "base": str(base)}
            limits = Limits.for_file(
                examples.stat().st_size, CPU_SECONDS, CPU_SECONDS_PER_MIB, MEMORY_MIB
            )
            return self._run(request, limits)
