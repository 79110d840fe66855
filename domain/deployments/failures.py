"""Advice on failed deployments."""

from __future__ import annotations

AGAIN = "Deploy the model again. If this fails again, ask your operator."

NEW_JOB = "Start a new job, and send this message to your operator."

OTHER_BASE = (
    "EcoLink cannot serve this model. Download it and use it with PEFT, or train on "
    "another base model."
)

NO_MEMORY = (
    "Undeploy models that you do not need, or ask your operator to give serving more memory. "
    "Then deploy the model again."
)

ADVICE = {
    "weights_missing": "If the base model is missing, ask your operator to import it again. "
    "If the adapter is missing, start a new job.",
    "weights_damaged": "Ask your operator to find the damaged file with `ecolink models "
    "verify`. If it belongs to the adapter, start a new job.",
    "not_an_adapter": NEW_JOB,
    "adapter_unreadable": NEW_JOB,
    "adapter_mismatch": NEW_JOB,
    "adapter_not_finite": "The training diverged. Start a new job with a lower learning rate, or "
    "deploy an earlier checkpoint.",
    "unsupported_adapter": (
        "Download the adapter and use it with PEFT, or start a new job with other target modules."
    ),
    "base_unreadable": "Ask your operator to import the base model again.",
    "unsupported_tokenizer": OTHER_BASE,
    "unsupported_architecture": OTHER_BASE,
    "load_failed": AGAIN,
    "no_room": NO_MEMORY,
    "serving_died": NO_MEMORY,
    "base_not_deployed": "Deploy the adapter again when its base model is deployed.",
}
"""Advice by failure code."""


def advice_on(code: str) -> str:
    """Return advice on a failure, in full sentences."""
    return ADVICE.get(code, AGAIN)
