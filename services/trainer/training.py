"""The optimizer step, which is bit-reproducible for the same seed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch.nn.utils import clip_grad_norm_

from domain.estimating.batching import padded
from domain.estimating.footprint import PAD_MULTIPLE
from domain.training.hyperparameters import Hyperparameters
from infrastructure.chat.chat_labels import Example
from services.trainer.batches import Batch, collate, loss_sum, processed_tokens
from services.trainer.failures import LossDiverged, is_out_of_memory
from services.trainer.kernels.compiling import Compiled, common_kinds
from services.trainer.kernels.lora import Dropout
from services.trainer.lease import Lease, SegmentStopped
from services.trainer.objectives import Loss, PreferenceLoss, Rewards, objective_of
from services.trainer.oom import reporting_out_of_memory
from services.trainer.pairs import Item, all_sequences, sequences_of
from services.trainer.plan import Plan
from services.trainer.processes.ranks import Ranks
from services.trainer.reference import Reference
from services.trainer.state import RandomState

SAMPLED_STEPS = 32  # four of the plan's windows, in which examples are sorted by length


@dataclass(frozen=True)
class Step:
    """The metrics of one optimizer step, over all ranks."""

    loss: float  # before the step, in nats per trainable token, or per pair with DPO
    tokens: int  # without padding
    learning_rate: float
    seconds: float
    rewards: Rewards | None = None  # None: not DPO


class Training:
    """An adapted model, its optimizer and its plan. Only `step` changes the adapter."""

    def __init__(
        self,
        model: PeftModel,
        plan: Plan,
        examples: Sequence[Item],
        hyperparameters: Hyperparameters,
        ranks: Ranks,
        lease: Lease,
    ) -> None:
        self.adapted, self.base = model, model.get_base_model()
        self.adapter = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.adapter,
            lr=hyperparameters.learning_rate,
            weight_decay=hyperparameters.weight_decay,
        )
        self.model, self.plan, self.examples = ranks.prepare(model), plan, examples
        self.hyperparameters, self.objective = hyperparameters, objective_of(hyperparameters)
        self.ranks, self.lease = ranks, lease
        self.dropout, self.dtype = Dropout(model), model.get_input_embeddings().weight.dtype
        self.compiled, self.compile_seconds = None, 0.0
        if ranks.count > 1:
            self._exchange_once()

    @property
    def reference(self) -> Reference | None:
        """Reference of DPO; None for other methods, and before it is computed."""
        return self.objective.reference if isinstance(self.objective, PreferenceLoss) else None

    def step(self, number: int) -> Step | None:
        """Run one optimizer step (from 0) and return its metrics.

        The gradient is that of the mean loss over all trainable tokens of the step, or with DPO
        over its pairs, regardless of their division into micro-batches and ranks. AdamW: Loshchilov
        and Hutter (2019). If the segment has to end first, return None and leave model, optimizer
        and random state unchanged. Raise LossDiverged in all ranks if the loss or gradient is not
        finite, and MicroBatchTooLarge if a batch runs out of memory.
        """
        started, before = time.monotonic(), RandomState.of(self.ranks.device)
        self.model.train()
        work = self.plan.work(number, self.ranks.count)
        # Every rank knows all of the step's examples, so their count needs no exchange.
        examples = [self.examples[index] for share in work for batch in share for index in batch]
        units = self.objective.units(examples)
        # Tensors, because reading a number from a GPU synchronizes with it.
        total = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        rewards = torch.zeros(3, dtype=torch.float64, device=self.ranks.device)
        # Each rank runs one batch per turn. In the last turns, some ranks may have none.
        mine, turns = work[self.ranks.rank], max(map(len, work))
        for turn in range(turns):
            # Before each batch, because a step may take longer than the grace period.
            if self.ranks.agree(self.lease.must_end()):
                self.optimizer.zero_grad()
                before.restore(self.ranks.device)
                return None
            with self.ranks.accumulating(self.model, last=turn == turns - 1):
                if turn < len(mine):
                    found = self._accumulate(mine[turn], units)
                    total += found.total
                    if found.rewards is not None:
                        rewards += found.rewards
                else:
                    self._add_nothing(work[0][0][0])
        loss, *sums = self.ranks.sum(total.item(), *rewards.tolist())
        norm = clip_grad_norm_(self.adapter, self.hyperparameters.max_grad_norm).item()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise LossDiverged(f"Step {number + 1:,} has loss {loss} and gradient norm {norm}.")
        learning_rate = self.plan.learning_rate(number, self.hyperparameters)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        tokens = sum(len(sequence.input_ids) for sequence in all_sequences(examples))
        measured = None
        if isinstance(self.objective, PreferenceLoss):
            measured = Rewards(*(each / units for each in sums))
        return Step(loss, tokens, learning_rate, time.monotonic() - started, measured)

    def _accumulate(self, indices: list[int], units: int) -> Loss:
        """Add the gradient of one batch. Return its share of the loss, and the sums of rewards."""
        examples = [self.examples[index] for index in indices]
        with reporting_out_of_memory(examples, self.plan, self.ranks.device):
            batch = collate(all_sequences(examples), self.ranks.device)
            kernels = self.compiled.running(*batch.shape) if self.compiled else nullcontext()
            with kernels, self._drawn_dropout(batch):
                found = self.objective.loss(self.model, batch, indices)
                loss = found.total / units
                # The gradients of the ranks are averaged, but the step needs their sum.
                (loss * self.ranks.count).backward()
        return Loss(loss.detach(), found.rewards)

    def _drawn_dropout(self, batch: Batch) -> AbstractContextManager[None]:
        tokens = processed_tokens(self.base, batch)
        return self.dropout.drawn(tokens, self.dtype, self.ranks.device)

    def _add_nothing(self, index: int) -> None:
        """Add a zero gradient, so that this rank runs a backward pass like the others."""
        sequence = sequences_of(self.examples[index])[0]
        ids = torch.tensor([sequence.input_ids[:PAD_MULTIPLE]])
        output = self.model(input_ids=ids.to(self.ranks.device), use_cache=False, logits_to_keep=1)
        (0.0 * output.logits.float().sum()).backward()

    # Before the first step

    def compile(self) -> str | None:
        """Compile the layers, which takes 10 to 30 s. Return None, or the reason if that fails.

        Raise SegmentStopped between two kinds of micro-batch if the segment has to end, because
        compiling all kinds may take longer than the grace period.
        """
        began = time.monotonic()
        try:
            compiled = Compiled(
                self.base, common_kinds(self._shapes()), self.rehearse, self.lease.check
            )
        except SegmentStopped:
            raise
        except Exception as error:  # such as a lack of disk space or of a system library
            if is_out_of_memory(error):
                raise
            return repr(error)
        self.compiled, self.compile_seconds = compiled, time.monotonic() - began
        return None

    def _shapes(self) -> Iterator[tuple[int, int]]:
        """Yield (rows, tokens) of the first steps' batches, as a sample of all steps."""
        for number in range(min(self.plan.total_steps, SAMPLED_STEPS)):
            for batch in self.plan.work(number, self.ranks.count)[self.ranks.rank]:
                yield (
                    self.plan.sequences * len(batch),
                    padded(max(self.plan.lengths[index] for index in batch)),
                )

    def rehearse(self, rows: int, tokens: int) -> None:
        """Run a micro-batch (rows, tokens) forward and backward without changing any state."""
        before = RandomState.of(self.ranks.device)
        self.model.train()  # kernels are compiled per mode
        # Unique sizes, because the compiler assumes that equal sizes are always equal.
        ids = [(0,) * (tokens - 2 - 10 * row) for row in range(rows)]
        batch = collate([Example(each, each) for each in ids], self.ranks.device)
        with self._drawn_dropout(batch), self.ranks.accumulating(self.model, last=False):
            torch.autograd.grad(loss_sum(self.model, batch), self.adapter)
        before.restore(self.ranks.device)

    def _exchange_once(self) -> None:
        """Exchange gradients between the ranks once, before the first step of a segment.

        After its first exchange, DistributedDataParallel regroups the gradients, so that three or
        more ranks add them in another order. The first step must add them in the same order as
        later steps.
        """
        before = RandomState.of(self.ranks.device)
        self.model.train()
        self._add_nothing(0)
        self.optimizer.zero_grad()
        before.restore(self.ranks.device)
