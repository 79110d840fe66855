"""The results of the evaluations before and after training."""

from __future__ import annotations

from pydantic import ConfigDict

from domain.core.value import Value


class EvaluationResult(Value):
    """Held-out loss and token accuracy of the base model and of the trained adapter."""

    model_config = ConfigDict(allow_inf_nan=False)

    loss_before: float  # in nats per trainable token
    loss_after: float
    # Share of trainable tokens that the model ranked first; None: not measured.
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    examples: int
    label_tokens: int
