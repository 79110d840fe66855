"""A lack of memory in a micro batch, told with what the memory did not hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from domain.jobs.failures import FailureClass, MemoryShortage
from infrastructure.chat_labels import Example
from services.trainer.failures import SegmentFailure, is_out_of_memory
from services.trainer.peak_memory import PeakMemory
from services.trainer.plan import Plan


class MicroBatchTooLarge(SegmentFailure):
    """The memory did not hold a micro batch; `shortage` says which."""

    failure = FailureClass.OUT_OF_MEMORY

    def __init__(self, shortage: MemoryShortage) -> None:
        super().__init__(
            f"no memory for a micro batch of {shortage.rows} x {shortage.tokens} tokens "
            f"(micro batch size {shortage.micro_batch_size}, gradient accumulation "
            f"{shortage.gradient_accumulation}); {shortage.peak_bytes:,} bytes were held at most"
        )
        self.shortage = shortage


@contextmanager
def reporting_out_of_memory(
    examples: Sequence[Example], plan: Plan, device: torch.device
) -> Iterator[None]:
    """Around the passes of a micro batch: raises MicroBatchTooLarge for a lack of memory in them.

    torch has one for a GPU, OutOfMemoryError; a CPU's is a RuntimeError, or Python's MemoryError.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        shortage = MemoryShortage(
            rows=len(examples),
            tokens=max(len(example.input_ids) for example in examples),
            micro_batch_size=plan.largest_micro_batch,
            gradient_accumulation=min(plan.split, plan.micro_batch_size)
            * plan.gradient_accumulation,
            peak_bytes=PeakMemory(device).bytes,
        )
        raise MicroBatchTooLarge(shortage) from error
