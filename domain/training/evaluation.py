"""The results of the evaluations before and after training."""

from __future__ import annotations

from pydantic import ConfigDict

from domain.core.value import Value


class EvaluationResult(Value):
    """Held-out loss and accuracy of the base model and of the trained adapter.

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
    examples: int
    label_tokens: int
    # Mean difference between the rewards of both answers after training; None: not DPO.
    reward_margin: float | None = None
