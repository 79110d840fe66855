"""The early end of a training whose held-out loss no longer falls."""

from __future__ import annotations

from pydantic import ConfigDict

from domain.core.counts import Count
from domain.core.value import Value


class EarlyStop(Value):
    """The step at which training stopped early, and the reason."""

    model_config = ConfigDict(allow_inf_nan=False)

    step: Count  # number of completed optimizer steps
    planned_steps: Count
    evaluations: Count  # consecutive newest evaluations that did not lower the loss enough
    eval_loss: float  # held-out loss at the step, in nats per trainable token
    lowest_step: Count  # step of the evaluation with the lowest held-out loss
    lowest_eval_loss: float
