"""Evaluation on held-out examples."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import torch
from peft import PeftModel
from torch import nn

from domain.training.evaluation import EvaluationResult
from domain.training.perplexity import perplexity
from infrastructure.chat_labels import Example
from infrastructure.reports import EvaluationMeasured
from services.trainer.batches import collate, scored
from services.trainer.context import Context
from services.trainer.failures import LossDiverged
from services.trainer.lease import Lease
from services.trainer.oom import reporting_out_of_memory
from services.trainer.plan import Plan, cut
from services.trainer.processes.ranks import Ranks
from services.trainer.progress import Progress


@dataclass(frozen=True)
class Score:
    loss: float  # mean, in nats per trainable token
    accuracy: float  # share of trainable tokens that the model ranked first
    label_tokens: int

    def __str__(self) -> str:
        return (
            f"{self.loss:.4f} nats per token, perplexity {perplexity(self.loss):.4g}, "
            f"{self.accuracy:.1%} of the tokens correct"
        )


class HeldOut:
    """The held-out examples, in batches by length.

    Scoring draws no random numbers and changes no parameters, so it does not affect training. The
    ranks divide the batches, and all ranks get the same result.
    """

    def __init__(self, examples: Sequence[Example], plan: Plan, ranks: Ranks) -> None:
        self.examples = len(examples)
        by_length = sorted(examples, key=lambda example: -len(example.input_ids))
        self._batches = [
            [by_length[index] for index in indices]
            for indices in cut(range(len(by_length)), plan.largest_micro_batch)
        ]
        self._plan, self._ranks = plan, ranks

    def score(self, model: nn.Module, lease: Lease) -> Score | None:
        """Score a model without dropout, and leave it in evaluation mode.

        Return None if the segment has to end before the last batch. Raise LossDiverged in all ranks
        if the loss is not finite, and MicroBatchTooLarge if a batch runs out of memory.
        """
        model.eval()
        loss, correct, label_tokens = 0.0, 0, 0
        mine = self._batches[self._ranks.rank :: self._ranks.count]
        # Not inference mode: a module may keep its tensors and fail in a later backward pass.
        with torch.no_grad():
            for turn in range(-(-len(self._batches) // self._ranks.count)):
                if self._ranks.agree(lease.must_end()):
                    return None
                if turn < len(mine):  # the last round may have no batch for this rank
                    with reporting_out_of_memory(mine[turn], self._plan, self._ranks.device):
                        batch = collate(mine[turn], self._ranks.device)
                        batch_loss, batch_correct = scored(model, batch)
                    loss += batch_loss
                    correct += batch_correct
                    label_tokens += batch.label_tokens
        loss, correct, label_tokens = self._ranks.sum(loss, correct, label_tokens)
        if not math.isfinite(loss):
            raise LossDiverged(f"The held-out loss is {loss}.")
        return Score(loss / label_tokens, correct / label_tokens, int(label_tokens))


class Evaluations:
    """The evaluations of a segment, at intervals and at its end. It reports each of them."""

    def __init__(self, context: Context, held_out: HeldOut, progress: Progress) -> None:
        self._spec, self._reporter, self._lease = context.spec, context.reporter, context.lease
        self._held_out, self._progress = held_out, progress

    @property
    def due(self) -> bool:
        return self._progress.step % self._spec.hyperparameters.evaluation_steps == 0

    def between(self, model: PeftModel) -> None:
        """Evaluate between two steps, unless the segment has to end."""
        began = time.monotonic()
        score = self._held_out.score(model, self._lease)
        if score is not None:
            self._progress.eval_loss = score.loss
            self._report(self._progress.step, score, began)
            self._reporter.log(f"held-out loss at step {self._progress.step:,}: {score}")

    def conclude(self, model: PeftModel) -> EvaluationResult:
        """Evaluate at the end, with the adapter off (before) and on (after).

        Raise SegmentStopped in rank 0 if the segment has to end.
        """
        with model.disable_adapter():
            before = self._score(model, 0)
        after = self._score(model, self._progress.step)
        self._reporter.log(f"held-out loss before training: {before}")
        self._reporter.log(f"held-out loss after training: {after}")
        return EvaluationResult(
            loss_before=before.loss,
            loss_after=after.loss,
            accuracy_before=before.accuracy,
            accuracy_after=after.accuracy,
            examples=self._held_out.examples,
            label_tokens=after.label_tokens,
        )

    def _score(self, model: nn.Module, step: int) -> Score:
        """Score a model. If the lease is extended after an interruption, start over."""
        began = time.monotonic()
        while (score := self._held_out.score(model, self._lease)) is None:
            self._lease.check()
        self._report(step, score, began)
        return score

    def _report(self, step: int, score: Score, began: float) -> None:
        self._reporter.measure(
            EvaluationMeasured(
                account_id=self._spec.account_id,
                job_id=self._spec.job_id,
                segment=self._spec.segment,
                step=step,
                eval_loss=score.loss,
                accuracy=score.accuracy,
                examples=self._held_out.examples,
                label_tokens=score.label_tokens,
                seconds=time.monotonic() - began,
                elapsed_seconds=self._lease.clock.elapsed(),
                measured_at=datetime.now(UTC),
            )
        )
