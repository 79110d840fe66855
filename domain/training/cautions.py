"""Warnings about hyperparameters that are valid but rarely lead to a useful model."""

from __future__ import annotations

from domain.training.hyperparameters import DPO, DPO_DEFAULTS, Hyperparameters

DEFAULT_LEARNING_RATE = Hyperparameters().learning_rate
LEAST_MULTIPLE = 0.01
"""Least usual multiple of the default rate. A `learning_rate_multiplier` is far below."""

HIGHEST_LEARNING_RATE = 5e-3
HIGHEST_DPO_MULTIPLE = 5
"""Multiple of the default above which DPO often makes even preferred answers unlikely."""

BETAS = (0.005, 1.0)
"""Bounds of usual values of beta."""

HIGHEST_DROPOUT = 0.5
HIGHEST_SCALE = 16


def default_learning_rate(chosen: Hyperparameters) -> float:
    """Return the default learning rate of the method of a job."""
    return DPO_DEFAULTS["learning_rate"] if chosen.method == DPO else DEFAULT_LEARNING_RATE


def cautions(chosen: Hyperparameters) -> list[str]:
    """Return warnings about unusual values, for the owner of a job."""
    rate, dropout, scale = chosen.learning_rate, chosen.dropout, chosen.adapter_scale
    default = default_learning_rate(chosen)
    multiple = round(rate / default, 12)  # the rounding removes floating-point errors
    found: list[str] = []
    if multiple < LEAST_MULTIPLE:
        found.append(
            f"The learning rate {rate:g} is {multiple:.3g} times the default of "
            f"{default:g}. Below {LEAST_MULTIPLE:g} times the default, training "
            "changes almost nothing but still costs money. `learning_rate_multiplier` is a "
            "multiple of the default, not a rate."
        )
    if chosen.method == DPO and multiple > HIGHEST_DPO_MULTIPLE:
        found.append(
            f"The learning rate {rate:g} is {multiple:.3g} times the default of DPO, {default:g}. "
            f"Above {HIGHEST_DPO_MULTIPLE} times the default, DPO often makes even preferred "
            "answers unlikely."
        )
    if chosen.method != DPO and rate > HIGHEST_LEARNING_RATE:
        found.append(
            f"The learning rate {rate:g} is above {HIGHEST_LEARNING_RATE:g}, where training "
            f"usually diverges. The default is {default:g}."
        )
    if chosen.beta is not None and not BETAS[0] <= chosen.beta <= BETAS[1]:
        found.append(
            f"A beta of {chosen.beta:g} is unusual. Usual values are 0.01 to 0.5: with a smaller "
            "one, the model may forget what it knows, and with a larger one, it hardly changes."
        )
    if dropout > HIGHEST_DROPOUT:
        found.append(
            f"A dropout of {dropout:g} hides most of the adapter's input, so the adapter "
            "learns little. Usual values are 0 to 0.1."
        )
    if chosen.early_stopping_threshold and chosen.early_stopping_patience is None:
        found.append(
            f"The early stopping threshold {chosen.early_stopping_threshold:g} has no effect "
            "without a patience. Set early_stopping_patience to stop early."
        )
    if scale > HIGHEST_SCALE:
        divisor = "√r" if chosen.use_rslora else "r"
        found.append(
            f"lora_alpha {chosen.lora_alpha:,} with lora_r {chosen.lora_r:,} scales the "
            f"adapter by {scale:.3g}. Above {HIGHEST_SCALE}, training usually diverges. If "
            f"alpha is 1 to 2 times {divisor}, the scale is 1 to 2."
        )
    return found


def stopping_cautions(chosen: Hyperparameters, total_steps: int) -> list[str]:
    """Return a warning if early stopping can never take effect in a job of `total_steps` steps."""
    patience = chosen.early_stopping_patience
    if patience is None or chosen.earliest_stop(total_steps) < total_steps:
        return []
    needed, before_the_end = 1 + patience, total_steps - 1
    evaluations = before_the_end // chosen.evaluation_steps
    highest = before_the_end // needed
    advice = (
        f"Set eval_steps to {highest:,} or less."
        if highest
        else "Lower early_stopping_patience, or train for more epochs."
    )
    return [
        f"Early stopping cannot take effect: {total_steps:,} steps allow {evaluations:,} "
        f"{'evaluation' if evaluations == 1 else 'evaluations'} before the last step, but a "
        f"patience of {patience:,} needs {needed:,}. {advice}"
    ]
