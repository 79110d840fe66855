"""The loss that a job minimizes: cross entropy, or that of direct preference optimization (DPO)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from domain.training.hyperparameters import DPO, Hyperparameters
from services.trainer.batches import Batch, log_probabilities, loss_sum, scored
from services.trainer.pairs import Item, all_sequences
from services.trainer.reference import LogProbabilities, Reference


@dataclass(frozen=True)
class Loss:
    """The loss of a batch, summed over its units, as a scalar with a gradient.

    `rewards` (3) are sums over the pairs of a batch of DPO: the number of pairs whose preferred
    answer has the higher reward, and the rewards of the preferred and of the rejected answers.
    """

    total: Tensor
    rewards: Tensor | None = None


@dataclass(frozen=True)
class Rewards:
    """Means over preference pairs. A tie counts as half correct."""

    accuracy: float  # share of pairs whose preferred answer has the higher reward
    chosen: float  # reward of the preferred answers
    rejected: float

    @property
    def margin(self) -> float:
        """Mean difference between the rewards of the preferred and the rejected answers."""
        return self.chosen - self.rejected


class Objective(Protocol):
    """The loss of a job. Its units are what the loss is a mean of."""

    def units(self, items: Sequence[Item]) -> int:
        """Return the number of units of some examples."""
        ...

    def loss(self, model: nn.Module, batch: Batch, indices: Sequence[int]) -> Loss:
        """Return the loss of a batch of training examples with these indices."""
        ...

    def score(self, model: nn.Module, batch: Batch, indices: Sequence[int]) -> list[float]:
        """Return sums over a held-out batch: loss, correct units, and the two rewards of pairs."""
        ...


class CrossEntropy:
    """Cross entropy of the trainable tokens, in nats. Its units are tokens."""

    def units(self, items: Sequence[Item]) -> int:
        return sum(sequence.label_tokens for sequence in all_sequences(items))

    def loss(self, model: nn.Module, batch: Batch, indices: Sequence[int]) -> Loss:
        return Loss(loss_sum(model, batch))

    def score(self, model: nn.Module, batch: Batch, indices: Sequence[int]) -> list[float]:
        loss, correct = scored(model, batch)
        return [loss, correct, 0.0, 0.0]


class PreferenceLoss:
    """The loss of DPO. Its units are preference pairs.

    The reward of an answer is beta times the difference between its log-probability and that of the
    reference, both summed over the answer's tokens. The loss of a pair is -log sigmoid of the
    difference between the rewards of its preferred and its rejected answer. Source: Rafailov et
    al., Direct Preference Optimization (2023), equation 7.
    """

    LOSS_BEFORE = math.log(2)
    """Loss of the reference itself, whose rewards are zero."""

    def __init__(self, beta: float) -> None:
        self.beta = beta
        self.reference: Reference | None = None  # None: not computed yet

    def units(self, items: Sequence[Item]) -> int:
        return len(items)

    def loss(self, model: nn.Module, batch: Batch, indices: Sequence[int]) -> Loss:
        assert self.reference is not None
        return self._loss(model, batch, indices, self.reference.train)

    def score(self, model: nn.Module, batch: Batch, indices: Sequence[int]) -> list[float]:
        assert self.reference is not None
        found = self._loss(model, batch, indices, self.reference.held_out)
        assert found.rewards is not None
        return [found.total.item(), *found.rewards.tolist()]

    def _loss(
        self, model: nn.Module, batch: Batch, indices: Sequence[int], reference: LogProbabilities
    ) -> Loss:
        ratios = log_probabilities(model, batch).view(-1, 2)
        rewards = self.beta * (ratios - reference[list(indices)].to(ratios.device))
        margins = rewards[:, 0] - rewards[:, 1]
        measured = rewards.detach()
        correct = (margins > 0).sum() + 0.5 * (margins == 0).sum()
        sums = torch.stack([correct.float(), measured[:, 0].sum(), measured[:, 1].sum()])
        return Loss(-logsigmoid(margins).sum(), sums)


def objective_of(hyperparameters: Hyperparameters) -> CrossEntropy | PreferenceLoss:
    """Return the objective of a job."""
    if hyperparameters.method != DPO:
        return CrossEntropy()
    assert hyperparameters.beta is not None
    return PreferenceLoss(hyperparameters.beta)
