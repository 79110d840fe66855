"""The order of the data, a pure function of seed and epoch, and the learning rate schedule."""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from random import Random

from domain.estimating.batching import fill, padded
from domain.training.hyperparameters import Hyperparameters
from infrastructure.chat.chat_labels import Example
from infrastructure.training.reports import SegmentSpec
from services.trainer.pairs import Item, all_sequences, length_of

WINDOW_STEPS = 8  # optimizer steps whose examples are sorted by length together


@dataclass(frozen=True, eq=False)  # caches key it by identity, because hashing lengths is slow
class Plan:
    """The examples of each optimizer step, divided into micro-batches.

    Every epoch has its own order, and ends with a short step if the examples do not divide evenly.
    The plan depends only on approved values, such as the approved number of ranks. The actual ranks
    share the same micro-batches, whatever their number is.
    """

    lengths: tuple[int, ...]  # of the longest sequence of each example, in tokens
    epochs: int
    micro_batch_size: int
    gradient_accumulation: int
    seed: int
    ranks: int = 1  # approved number of ranks
    split: int = 1  # number of parts into which each micro-batch is split
    batch_tokens: int = 0  # tokens that fit into memory at once; 0: those of one micro-batch
    content_sha256: str = ""  # hash of the examples' tokens and labels
    sequences: int = 1  # number of sequences of an example: 2 for preference pairs
    example_tokens: int | None = None  # tokens of all sequences; None: those of `lengths`

    @classmethod
    def of(cls, spec: SegmentSpec, examples: Sequence[Item]) -> Plan:
        hyperparameters, sequences = spec.hyperparameters, all_sequences(examples)
        return cls(
            lengths=tuple(map(length_of, examples)),
            epochs=hyperparameters.epochs,
            micro_batch_size=hyperparameters.micro_batch_size,
            gradient_accumulation=hyperparameters.gradient_accumulation,
            seed=hyperparameters.seed,
            ranks=spec.approved_gpu_count or spec.gpu_count,
            split=spec.micro_batch_split,
            batch_tokens=spec.batch_tokens or 0,
            content_sha256=content_sha256(sequences),
            sequences=hyperparameters.sequences_per_example,
            example_tokens=sum(len(sequence.input_ids) for sequence in sequences),
        )

    @property
    def examples_per_step(self) -> int:
        return self.micro_batch_size * self.micro_batches_per_step

    @property
    def micro_batches_per_step(self) -> int:
        """Number of micro-batches in a full optimizer step, over all ranks."""
        return self.gradient_accumulation * self.ranks

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.lengths) / self.examples_per_step)

    @property
    def tokens(self) -> int:
        """Number of tokens in the whole job, without padding."""
        known = self.example_tokens
        return self.epochs * (sum(self.lengths) if known is None else known)

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def largest_micro_batch(self) -> int:
        """Number of examples in a full micro-batch, after the split."""
        return -(-self.micro_batch_size // self.split)

    def micro_batches(self, step: int, among: int = 1) -> list[list[int]]:
        """Return a step's example indices by micro-batch, for round-robin among the ranks."""
        epoch, position = divmod(step, self.steps_per_epoch)
        batches = _epoch(self, epoch)
        start = position * self.micro_batches_per_step
        whole = batches[start : start + self.micro_batches_per_step]
        batches = [part for batch in whole for part in cut(batch, -(-len(batch) // self.split))]
        if among > 1:  # largest first, so that the ranks' work is balanced
            batches = sorted(batches, key=self._padded_tokens, reverse=True)
        return batches

    def work(self, step: int, among: int = 1) -> list[list[list[int]]]:
        """Return the batches of an optimizer step (from 0) for each of `among` ranks.

        The micro-batches of a rank are merged into as few batches as fit into memory.
        """
        dealt = self.micro_batches(step, among)
        shares = [
            [index for batch in dealt[rank::among] for index in batch] for rank in range(among)
        ]
        return [
            [
                [share[position] for position in positions]
                for positions in fill([self.lengths[i] for i in share], self.budget)
            ]
            for share in shares
        ]

    @cached_property
    def budget(self) -> int:
        """Maximum number of tokens with padding in a batch of examples, one sequence each."""
        most = self.batch_tokens // self.sequences
        return max(self.micro_batch_size * padded(max(self.lengths)), most) // self.split

    def _padded_tokens(self, batch: list[int]) -> int:
        return len(batch) * max(self.lengths[index] for index in batch)

    def learning_rate(self, step: int, hyperparameters: Hyperparameters) -> float:
        """Return a step's rate: linear warm-up, then decay (cosine: SGDR, 2017, no restarts).

        The constant schedules are those of transformers: only one of them has a warm-up.
        """
        peak = hyperparameters.learning_rate
        if hyperparameters.schedule == "constant":
            return peak
        warm_up = math.ceil(hyperparameters.warmup_share * self.total_steps)
        if step < warm_up:
            return peak * (step + 1) / warm_up
        progress = (step - warm_up) / max(1, self.total_steps - warm_up)
        match hyperparameters.schedule:
            case "constant_with_warmup":
                return peak
            case "linear":
                return peak * (1.0 - progress)
            case "cosine":
                return peak * 0.5 * (1.0 + math.cos(math.pi * progress))


def cut(indices: Sequence[int], size: int) -> list[list[int]]:
    """Return consecutive slices of at most `size` indices."""
    return [list(indices[start : start + size]) for start in range(0, len(indices), size)]


@lru_cache(maxsize=2)
def _epoch(plan: Plan, epoch: int) -> list[list[int]]:
    """Return all micro-batches of an epoch, in order.

    Within windows of 8 steps, the shuffled examples are sorted by length and cut into
    micro-batches, which are then shuffled. This avoids most of the padding.
    """
    random = Random(f"{plan.seed}:{epoch}")
    order = list(range(len(plan.lengths)))
    random.shuffle(order)
    batches: list[list[int]] = []
    for window in cut(order, WINDOW_STEPS * plan.examples_per_step):
        by_length = sorted(window, key=lambda index: (-plan.lengths[index], index))
        shuffled = cut(by_length, plan.micro_batch_size)
        random.shuffle(shuffled)
        batches += shuffled
    return batches


def content_sha256(examples: Iterable[Example]) -> str:
    """Return a hash of tokens and labels, which dates in templates or new releases change."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(array("i", example.input_ids).tobytes())
        digest.update(array("i", example.labels).tobytes())
    return digest.hexdigest()


def data_position_sha256(plan: Plan, step: int) -> str:
    """Return a hash of seed, epoch, step and examples, whatever the micro-batches and ranks."""
    epoch = min(step // plan.steps_per_epoch, plan.epochs - 1)
    position = {
        "seed": plan.seed,
        "epoch": epoch,
        "step": step,
        "plan": _epoch_sha256(plan, epoch),
        "content": plan.content_sha256,
    }
    return hashlib.sha256(json.dumps(position).encode()).hexdigest()


@lru_cache(maxsize=2)
def _epoch_sha256(plan: Plan, epoch: int) -> str:
    digest = hashlib.sha256(array("q", plan.lengths).tobytes())
    first = epoch * plan.steps_per_epoch
    for step in range(first, first + plan.steps_per_epoch):
        seen = sorted(index for batch in plan.micro_batches(step) for index in batch)
        digest.update(array("q", (len(seen), *seen)).tobytes())
    return digest.hexdigest()
