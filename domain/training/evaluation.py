"""The results of the evaluations before and after training."""

from __future__ import annotations

from pydantic import ConfigDict

from domain.core.counts import Count, Size
from domain.core.value import Value


class EvaluationResult(Value):
    """Held-out loss and accuracy of the base model and of the adapter to register.

    With DPO, they are those of the policy before and after training. Its rewards are zero before
    training, so the loss is ln 2 and the accuracy 0.5 by definition.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    loss_before: float  # in nats per trainable token; with DPO, per preference pair
    loss_after: float
    # Share of trainable tokens that the model ranked first, or with DPO, of pairs whose preferred
    # answer has the higher reward; None: not measured.
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    examples: Count
    label_tokens: Size
    # Mean difference between the rewards of both answers after training; None: not DPO.
    reward_margin: float | None = None
    # Step of the evaluated state, if the job registers the best state; None: the final state.
    step: Count | None = None
    final_loss: float | None = None  # loss of the final state if another one is registered
    # Step and loss of the best state, if its checkpoint is lost and another state is registered.
    lost_best_step: Count | None = None
    lost_best_loss: float | None = None
