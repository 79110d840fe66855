"""The loop: one optimizer step at a time, the same to the last bit for the same seed."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from peft import PeftModel

from domain.hyperparameters import Hyperparameters
from services.trainer.batches import collate, loss_sum
from services.trainer.examples import Example
from services.trainer.plan import Plan

CLIP_NORM = 1.0
WEIGHT_DECAY = 0.01  # torch's default for AdamW, written out because the adapter depends on it


class LossDiverged(Exception):
    """The loss or its gradient is no finite number; the last checkpoint is still good."""


@dataclass(frozen=True)
class Step:
    """What one optimizer step measured."""

    loss: float  # mean over label tokens, nats, before the step
    label_tokens: int
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
        pad_id: int,
    ) -> None:
        self.accelerator = Accelerator()
        self.adapter = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.adapter, lr=hyperparameters.learning_rate, weight_decay=WEIGHT_DECAY
        )
        self.model, self._optimizer = self.accelerator.prepare(model, self.optimizer)
        self.plan, self.examples = plan, examples
        self.hyperparameters, self.pad_id = hyperparameters, pad_id

    def step(self, number: int) -> Step:
        """Do the optimizer step of this number (from 0) and measure it.

        The gradient is that of the mean loss over all label tokens of the step, however they are
        spread over micro batches. AdamW: Loshchilov and Hutter (2019). Raises LossDiverged.
        """
        started = time.monotonic()
        self.model.train()
        batches = [
            collate([self.examples[i] for i in indices], self.pad_id, self.accelerator.device)
            for indices in self.plan.micro_batches(number)
        ]
        label_tokens = sum(batch.label_tokens for batch in batches)
        total = 0.0
        for batch in batches:
            loss = loss_sum(self.model, batch) / label_tokens
            total += loss.item()
            self.accelerator.backward(loss)
        learning_rate = self.plan.learning_rate(number, self.hyperparameters.learning_rate)
        self._apply(total, learning_rate, number)
        return Step(
            loss=total,
            label_tokens=label_tokens,
            tokens=sum(batch.tokens for batch in batches),
            learning_rate=learning_rate,
            seconds=time.monotonic() - started,
        )

    def _apply(self, loss: float, learning_rate: float, number: int) -> None:
        norm = self.accelerator.clip_grad_norm_(self.adapter, CLIP_NORM)
        if not (math.isfinite(loss) and math.isfinite(float(norm if norm is not None else 0.0))):
            raise LossDiverged(f"loss {loss} with gradient norm {norm} at step {number + 1}")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad()
