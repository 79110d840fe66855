"""The loop: one optimizer step at a time, the same to the last bit for the same seed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
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
from services.trainer.lease import SegmentStopped
from services.trainer.oom import telling_shortage
from services.trainer.plan import Plan
from services.trainer.processes.ranks import Ranks
from services.trainer.random_state import RandomState

SHAPED_STEPS = 32  # four of the windows in which a plan sorts examples by length


@dataclass(frozen=True)
class Step:
    """What one optimizer step measured, over all ranks."""

    loss: float  # mean over label tokens, nats, before the step
    tokens: int  # without padding
    learning_rate: float
    seconds: float


class Training:
    """An adapted model, its optimizer and its plan; `step` is all that happens to them."""

    def __init__(
        self,
        model: PeftModel,
        plan: Plan,
        examples: list[Example],
        hyperparameters: Hyperparameters,
        ranks: Ranks,
        ends: Callable[[], bool],
    ) -> None:
        self.adapter = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.adapter,
            lr=hyperparameters.learning_rate,
            weight_decay=hyperparameters.weight_decay,
        )
        self.model, self.plan, self.examples = ranks.prepare(model), plan, examples
        self.hyperparameters = hyperparameters
        self.ranks, self.ends = ranks, ends
        self.dropout, self.dtype = Dropout(model), model.get_input_embeddings().weight.dtype
        self.base, self.compiled, self.compile_seconds = model.get_base_model(), None, 0.0
        if ranks.count > 1:
            self._settle()

    def compile(self, check: Callable[[], object]) -> str | None:
        """Compile the layers, in ten to thirty seconds; None, or why they stay eager after all.

        What a compiler may lack, space or a library of the system, is known when it is tried.
        `check` is called before each kind of micro batch, for all of them may take longer than the
        grace; it may raise SegmentStopped.
        """
        began = time.monotonic()
        try:
            compiled = Compiled(self.base, common(self._shapes()), self._practise, check)
        except SegmentStopped:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return repr(error)
        self.compiled, self.compile_seconds = compiled, time.monotonic() - began
        return None

    def make_deterministic(self) -> str | None:
        """Have a GPU give the same bits for the same step each time; None, or why it cannot."""
        return make_deterministic(lambda: self._practise(1, 2 * PAD_MULTIPLE))

    def _shapes(self) -> Iterator[tuple[int, int]]:
        """(rows, tokens) of the micro batches of the first steps, which stand for all."""
        for number in range(min(self.plan.total_steps, SHAPED_STEPS)):
            for batch in self.plan.work(number, self.ranks.count)[self.ranks.rank]:
                yield len(batch), padded(max(self.plan.lengths[index] for index in batch))

    def step(self, number: int) -> Step | None:
        """Do the optimizer step of this number (from 0) and measure it; None if it has to wait.

        The gradient is that of the mean loss over all label tokens of the step, however they are
        spread over micro batches and ranks. AdamW: Loshchilov and Hutter (2019). `ends` is asked
        before each micro batch, in all ranks at once, and answers all alike; if it says yes, all is
        as it was before the step. Raises LossDiverged, in all ranks alike.
        """
        started, before = time.monotonic(), RandomState.of(self.ranks.device)
        self.model.train()
        work = self.plan.work(number, self.ranks.count)
        # Every rank knows all of the step's examples: their count needs no exchange.
        examples = [self.examples[index] for mine in work for batch in mine for index in batch]
        label_tokens = sum(example.label_tokens for example in examples)
        loss = self._backward(work, label_tokens)
        if loss is None:
            self.optimizer.zero_grad()
            before.restore(self.ranks.device)
            return None
        learning_rate = self.plan.learning_rate(number, self.hyperparameters)
        self._apply(loss, learning_rate, number)
        return Step(
            loss=loss,
            tokens=sum(len(example.input_ids) for example in examples),
            learning_rate=learning_rate,
            seconds=time.monotonic() - started,
        )

    def _backward(self, work: list[list[list[int]]], label_tokens: int) -> float | None:
        """Gradients of this rank's batches, summed over the ranks; returns the loss.

        None if the segment has to end before: a step may take longer than the grace, a micro batch
        hardly does. After the last one the step is all but done, so that nobody asks any more.
        """
        # Read once a step: to read a GPU's number is to wait for it.
        total = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        mine = work[self.ranks.rank]
        turns = max(map(len, work))
        for turn in range(turns):
            if self.ends():
                return None
            with self.ranks.accumulating(self.model, last=turn == turns - 1):
                if turn < len(mine):
                    total += self._accumulate(mine[turn], label_tokens)
                else:  # in the last turns there may be nothing left for this rank
                    self._take_part(work[0][0][0])
        return self.ranks.sum(total.item())[0]

    def _accumulate(self, indices: list[int], label_tokens: int) -> Tensor:
        """Add the gradient of one micro batch; returns its part of the loss.

        Raises MicroBatchTooLarge.
        """
        examples = [self.examples[index] for index in indices]
        with telling_shortage(examples, self.plan, self.ranks.device):
            batch = collate(examples, self.ranks.device)
            with self._kernels(batch), self._dropping(batch):
                loss = loss_sum(self.model, batch) / label_tokens
                # The ranks' gradients are averaged, to be summed.
                (loss * self.ranks.count).backward()
        return loss.detach()

    def _kernels(self, batch: Batch) -> AbstractContextManager[None]:
        return self.compiled.running(*batch.shape) if self.compiled else nullcontext()

    def _dropping(self, batch: Batch) -> AbstractContextManager[None]:
        tokens = tokens_seen(self.base, batch)
        return self.dropout.drawn(tokens, self.dtype, self.ranks.device)

    def _practise(self, rows: int, tokens: int) -> None:
        """A micro batch to see how the machine computes; nothing that is trained changes."""
        before = RandomState.of(self.ranks.device)
        self.model.train()  # as in a step: the compiler tells the modes apart
        # Sizes that nothing else has, for the compiler takes equal ones to be always equal.
        taught = [(0,) * (tokens - 2 - 10 * row) for row in range(rows)]
        batch = collate([Example(each, each) for each in taught], self.ranks.device)
        with self._dropping(batch), self.ranks.accumulating(self.model, last=False):
            torch.autograd.grad(loss_sum(self.model, batch), self.adapter)
        before.restore(self.ranks.device)

    def _settle(self) -> None:
        """Have the ranks exchange once before the first step of a segment.

        After its first exchange DistributedDataParallel lays the gradients into other buckets, in
        which three ranks or more add in another order: a step must not depend on being the first.
        """
        before = RandomState.of(self.ranks.device)
        self.model.train()
        self._take_part(0)
        self.optimizer.zero_grad()
        before.restore(self.ranks.device)

    def _take_part(self, index: int) -> None:
        """Add a gradient of zero, from a backward pass as the other ranks have one."""
        ids = torch.tensor([self.examples[index].input_ids[:PAD_MULTIPLE]])
        output = self.model(input_ids=ids.to(self.ranks.device), use_cache=False, logits_to_keep=1)
        (0.0 * output.logits.float().sum()).backward()

    def _apply(self, loss: float, learning_rate: float, number: int) -> None:
        norm = clip_grad_norm_(self.adapter, self.hyperparameters.max_grad_norm).item()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise LossDiverged(f"loss {loss} with gradient norm {norm} at step {number + 1}")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad()
