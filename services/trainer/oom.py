"""Reporting of a batch that ran out of memory, with its size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from domain.jobs.failures import FailureClass, MemoryShortage
from services.trainer.failures import SegmentFailure, is_out_of_memory
from services.trainer.pairs import Item, length_of
from services.trainer.peak_memory import PeakMemory
from services.trainer.plan import Plan


class MicroBatchTooLarge(SegmentFailure):
    """A batch ran out of memory. `shortage` contains its size."""

    failure = FailureClass.OUT_OF_MEMORY

    def __init__(self, shortage: MemoryShortage) -> None:
        fewer = "a smaller micro batch size or " if shortage.rows > 1 else ""
        larger = "" if fewer else " or a larger GPU"
        super().__init__(
            f"Out of memory in a micro-batch of {shortage.rows:,} × {shortage.tokens:,} tokens "
            f"(micro batch size {shortage.micro_batch_size:,}, gradient accumulation "
            f"{shortage.gradient_accumulation:,}). The peak was {shortage.peak_bytes:,} bytes. "
            f"Use {fewer}a shorter max sequence length{larger}."
        )
        self.shortage = shortage


@contextmanager
def reporting_out_of_memory(
    examples: Sequence[Item], plan: Plan, device: torch.device
) -> Iterator[None]:
    """Raise MicroBatchTooLarge if a forward or backward pass in the block runs out of memory."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        parts = min(plan.split, plan.micro_batch_size)
        shortage = MemoryShortage(
            rows=len(examples),
            tokens=max(map(length_of, examples)),
            micro_batch_size=plan.largest_micro_batch,
            gradient_accumulation=parts * plan.gradient_accumulation,
            peak_bytes=PeakMemory(device).bytes,
        )
        raise MicroBatchTooLarge(shortage) from error
