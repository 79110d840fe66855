"""Evaluation on held-out examples."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import torch
from peft import PeftModel
from torch import nn

from domain.training.evaluation import EvaluationResult
from domain.training.perplexity import perplexity
from infrastructure.training.reports import EvaluationMeasured
from services.trainer.batches import collate
from services.trainer.context import Context
from services.trainer.failures import LossDiverged
from services.trainer.lease import Lease
from services.trainer.objectives import Objective, PreferenceLoss, Rewards
from services.trainer.oom import reporting_out_of_memory
from services.trainer.pairs import Item, all_sequences, length_of
from services.trainer.plan import Plan, cut
from services.trainer.processes.ranks import Ranks
from services.trainer.progress import EvaluatedStep, Progress


@dataclass(frozen=True)
class Score:
    """Means over the held-out examples: over trainable tokens, or with DPO over pairs."""

    loss: float  # in nats per trainable token or pair
    accuracy: float  # share of trainable tokens that the model ranked first, or of correct pairs
    label_tokens: int
    rewards: Rewards | None = None  # None: not DPO

    def __str__(self) -> str:
        if self.rewards is not None:
            return (
                f"{self.loss:.4f} nats per pair, {self.accuracy:.1%} of the pairs correct, reward "
                f"margin {self.rewards.margin:.4f}"
            )
        return (
            f"{self.loss:.4f} nats per token, perplexity {perplexity(self.loss):.4g}, "
            f"{self.accuracy:.1%} of the tokens correct"
        )


class HeldOut:
    """The held-out examples, in batches by length.

    Scoring draws no random numbers and changes no parameters, so it does not affect training. The
    ranks divide the batches, and all ranks get the same result.
    """

    def __init__(
        self, examples: Sequence[Item], plan: Plan, ranks: Ranks, objective: Objective
    ) -> None:
        self.examples, self._items = len(examples), examples
        self.label_tokens = sum(each.label_tokens for each in all_sequences(examples))
        by_length = sorted(range(len(examples)), key=lambda index: -length_of(examples[index]))
        self._batches = cut(by_length, plan.largest_micro_batch)
        self._plan, self._ranks, self.objective = plan, ranks, objective

    def score(self, model: nn.Module, lease: Lease) -> Score | None:
        """Score a model without dropout, and leave it in evaluation mode.

        Return None if the segment has to end before the last batch. Raise LossDiverged in all ranks
        if the loss is not finite, and MicroBatchTooLarge if a batch runs out of memory.
        """
        model.eval()
        sums = [0.0, 0.0, 0.0, 0.0]
        mine = self._batches[self._ranks.rank :: self._ranks.count]
        # Not inference mode: a module may keep its tensors and fail in a later backward pass.
        with torch.no_grad():
            for turn in range(-(-len(self._batches) // self._ranks.count)):
                if self._ranks.agree(lease.must_end()):
                    return None
                if turn < len(mine):  # the last round may have no batch for this rank
                    items = [self._items[index] for index in mine[turn]]
                    with reporting_out_of_memory(items, self._plan, self._ranks.device):
                        batch = collate(all_sequences(items), self._ranks.device)
                        found = self.objective.score(model, batch, mine[turn])
                    sums = [sum(both) for both in zip(sums, found, strict=True)]
        sums = self._ranks.sum(*sums)
        if not math.isfinite(sums[0]):
            raise LossDiverged(f"The held-out loss is {sums[0]}.")
        units = self.objective.units(self._items)
        loss, accuracy, *rewards = (each / units for each in sums)
        if not isinstance(self.objective, PreferenceLoss):
            return Score(loss, accuracy, self.label_tokens)
        return Score(loss, accuracy, self.label_tokens, Rewards(accuracy, *rewards))


class Evaluations:
    """The evaluations of a segment, at intervals and at its end. It reports each of them."""

    def __init__(self, context: Context, held_out: HeldOut, progress: Progress) -> None:
        self._spec, self._reporter, self._lease = context.spec, context.reporter, context.lease
        self._held_out, self._progress = held_out, progress

    def due(self, total_steps: int) -> bool:
        """Return True if this step is to be evaluated. The last one has the evaluation phase."""
        step, interval = self._progress.step, self._spec.hyperparameters.evaluation_steps
        at_interval = 0 < step < total_steps and step % interval == 0
        return at_interval and self._progress.eval_loss is None

    def between(self, model: PeftModel) -> bool:
        """Evaluate between two steps. Return False if the segment has to end."""
        began = time.monotonic()
        score = self._held_out.score(model, self._lease)
        if score is None:
            return False
        threshold = self._spec.hyperparameters.early_stopping_threshold
        self._progress.take_evaluation(score.loss, threshold)
        self._report(self._progress.step, score, began)
        self._reporter.log(f"held-out loss at step {self._progress.step:,}: {score}")
        return True

    def conclude(
        self, model: PeftModel, restore_best: Callable[[float], EvaluatedStep | None]
    ) -> EvaluationResult:
        """Evaluate at the end, with the adapter off (before) and on (after).

        With DPO, the rewards before training are zero by definition, so only the adapter is scored.
        If the job registers the best state, and an earlier one is no worse than the final one,
        `restore_best` restores the best intact one with at most the given loss, and the result is
        that of the restored state. If it returns None, the final state is registered. Raise
        SegmentStopped in rank 0 if the segment has to end.
        """
        progress, step, final, lost = self._progress, None, None, None
        if isinstance(self._held_out.objective, PreferenceLoss):
            nothing = Rewards(accuracy=0.5, chosen=0.0, rejected=0.0)
            tokens = self._held_out.label_tokens
            before = Score(PreferenceLoss.LOSS_BEFORE, nothing.accuracy, tokens, nothing)
            self._report(0, before, time.monotonic())
        else:
            with model.disable_adapter():
                before = self._score(model, 0)
        after = self._score(model, progress.step)
        self._reporter.log(f"held-out loss before training: {before}")
        self._reporter.log(f"held-out loss after training: {after}")
        if self._spec.hyperparameters.load_best_model_at_end:
            step, best = progress.step, progress.best
            if best is not None and best.step != step and best.loss <= after.loss:
                restored = restore_best(after.loss)
                lost = None if restored == best else best
                if restored is not None:
                    step, final = restored.step, after.loss
                    after = self._score(model, step)
                self._reporter.log(f"EcoLink registers step {step:,}, with held-out loss {after}")
        return EvaluationResult(
            step=step,
            final_loss=final,
            lost_best_step=lost and lost.step,
            lost_best_loss=lost and lost.loss,
            loss_before=before.loss,
            loss_after=after.loss,
            accuracy_before=before.accuracy,
            accuracy_after=after.accuracy,
            examples=self._held_out.examples,
            label_tokens=after.label_tokens,
            reward_margin=after.rewards and after.rewards.margin,
        )

    def _score(self, model: nn.Module, step: int) -> Score:
        """Score a model, again if the lease is extended after an interruption."""
        began = time.monotonic()
        while (score := self._held_out.score(model, self._lease)) is None:
            self._lease.check()
        if step in (0, self._progress.step):
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
                chosen_reward=score.rewards and score.rewards.chosen,
                rejected_reward=score.rewards and score.rewards.rejected,
                seconds=time.monotonic() - began,
                elapsed_seconds=self._lease.clock.elapsed(),
                measured_at=datetime.now(UTC),
            )
        )
