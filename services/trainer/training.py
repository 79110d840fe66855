"""The optimizer step: the same seed gives the same bits."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from domain.estimating.batching import padded
from domain.estimating.footprint import PAD_MULTIPLE
from domain.training.hyperparameters import Hyperparameters
from infrastructure.chat_labels import Example
from services.trainer.batches import Batch, collate, loss_sum, tokens_seen
from services.trainer.execution import make_deterministic
from services.trainer.failures import LossDiverged, is_out_of_memory
from services.trainer.kernels.compiling import Compiled, common
from services.trainer.kernels.lora import Dropout
from services.trainer.lease import Lease, SegmentStopped
from services.trainer.oom import reporting_out_of_memory
from services.trainer.plan import Plan
from services.trainer.processes.ranks import Ranks
from services.trainer.random_state import RandomState

SAMPLED_STEPS = 32  # four of the windows in which a plan sorts examples by length


@dataclass(frozen=True)
class Step:
    """The measurements of one optimizer step, over all ranks."""

    loss: float  # mean over label tokens, nats, before the step
    tokens: int  # without padding
    learning_rate: float
    seconds: float


class Training:
    """An adapted model, its optimizer and its plan. Only `step` changes the adapter."""

    def __init__(
        self,
        model: PeftModel,
        plan: Plan,
        examples: list[Example],
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
        self.hyperparameters = hyperparameters
        self.ranks, self.lease = ranks, lease
        self.dropout, self.dtype = Dropout(model), model.get_input_embeddings().weight.dtype
        self.compiled, self.compile_seconds = None, 0.0
        if ranks.count > 1:
            self._settle()

    def step(self, number: int) -> Step | None:
        """Do one optimizer step (from 0) and measure it; None if the segment has to end first.

        The gradient is that of the mean loss over all label tokens of the step, independent of how
        they are divided into micro-batches and ranks. AdamW: Loshchilov and Hutter (2019). After
        None, model, optimizer and random state are as they were before the step. Raises
        LossDiverged in all ranks, and MicroBatchTooLarge.
        """
        started, before = time.monotonic(), RandomState.of(self.ranks.device)
        self.model.train()
        work = self.plan.work(number, self.ranks.count)
        # Every rank knows all of the step's examples, so their count needs no exchange.
        examples = [self.examples[index] for share in work for batch in share for index in batch]
        label_tokens = sum(example.label_tokens for example in examples)
        # A tensor, because reading a number from a GPU waits for the GPU.
        total = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        mine, turns = work[self.ranks.rank], max(map(len, work))
        for turn in range(turns):
            # Before each micro-batch, because a step may take longer than the grace period.
            if self.ranks.agree(self.lease.must_end()):
                self.optimizer.zero_grad()
                before.restore(self.ranks.device)
                return None
            with self.ranks.accumulating(self.model, last=turn == turns - 1):
                if turn < len(mine):
                    total += self._accumulate(mine[turn], label_tokens)
                else:  # the last turns may leave nothing for this rank
                    self._take_part(work[0][0][0])
        (loss,) = self.ranks.sum(total.item())
        norm = clip_grad_norm_(self.adapter, self.hyperparameters.max_grad_norm).item()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise LossDiverged(f"Step {number + 1} has loss {loss} and gradient norm {norm}.")
        learning_rate = self.plan.learning_rate(number, self.hyperparameters)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        tokens = sum(len(example.input_ids) for example in examples)
        return Step(loss, tokens, learning_rate, time.monotonic() - started)

    def _accumulate(self, indices: list[int], label_tokens: int) -> Tensor:
        """Add the gradient of one micro-batch; returns its part of the loss."""
        examples = [self.examples[index] for index in indices]
        with reporting_out_of_memory(examples, self.plan, self.ranks.device):
            batch = collate(examples, self.ranks.device)
            kernels = self.compiled.running(*batch.shape) if self.compiled else nullcontext()
            with kernels, self._dropping(batch):
                loss = loss_sum(self.model, batch) / label_tokens
                # The ranks' gradients are averaged, and their sum is wanted.
                (loss * self.ranks.count).backward()
        return loss.detach()

    def _dropping(self, batch: Batch) -> AbstractContextManager[None]:
        tokens = tokens_seen(self.base, batch)
        return self.dropout.drawn(tokens, self.dtype, self.ranks.device)

    def _take_part(self, index: int) -> None:
        """Add a gradient of zero, from a backward pass like that of the other ranks."""
        ids = torch.tensor([self.examples[index].input_ids[:PAD_MULTIPLE]])
        output = self.model(input_ids=ids.to(self.ranks.device), use_cache=False, logits_to_keep=1)
        (0.0 * output.logits.float().sum()).backward()

    # Before the first step.

    def compile(self) -> str | None:
        """Compile the layers, in 10 to 30 s; returns None, or why they stay eager.

        A compiler may lack disk space or a system library, which shows only when it runs. Raises
        SegmentStopped between two kinds of micro-batch, because all may take longer than the grace
        period.
        """
        began = time.monotonic()
        try:
            compiled = Compiled(self.base, common(self._shapes()), self._practise, self.lease.check)
        except SegmentStopped:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return repr(error)
        self.compiled, self.compile_seconds = compiled, time.monotonic() - began
        return None

    def make_deterministic(self) -> str | None:
        """Make a GPU give the same bits for the same step; returns None, or why it cannot."""
        return make_deterministic(lambda: self._practise(1, 2 * PAD_MULTIPLE))

    def _shapes(self) -> Iterator[tuple[int, int]]:
        """(rows, tokens) of the micro-batches of the first steps, which represent all."""
        for number in range(min(self.plan.total_steps, SAMPLED_STEPS)):
            for batch in self.plan.work(number, self.ranks.count)[self.ranks.rank]:
                yield len(batch), padded(max(self.plan.lengths[index] for index in batch))

    def _practise(self, rows: int, tokens: int) -> None:
        """Run a micro-batch forward and backward without changing anything that is trained."""
        before = RandomState.of(self.ranks.device)
        self.model.train()  # the compiler distinguishes the modes
        # Sizes that nothing else has, because the compiler takes equal ones to be always equal.
        taught = [(0,) * (tokens - 2 - 10 * row) for row in range(rows)]
        batch = collate([Example(each, each) for each in taught], self.ranks.device)
        with self._dropping(batch), self.ranks.accumulating(self.model, last=False):
            torch.autograd.grad(loss_sum(self.model, batch), self.adapter)
        before.restore(self.ranks.device)

    def _settle(self) -> None:
        """Let the ranks exchange gradients once before the first step of a segment.

        After its first exchange DistributedDataParallel divides the gradients into other buckets,
        in which three or more ranks add in another order. A step must not depend on being the
        first.
        """
        before = RandomState.of(self.ranks.device)
        self.model.train()
        self._take_part(0)
        self.optimizer.zero_grad()
        before.restore(self.ranks.device)
