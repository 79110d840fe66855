"""What the owner of a model can do about a deployment that failed, by the code of its failure."""

from __future__ import annotations

AGAIN = "Deploy it again; should it fail again, tell the operator."

NEW_JOB = "Start a new job, and tell the operator what was said here."

OTHER_BASE = (
    "It cannot be served here. Download it for use with PEFT, or train on another base model."
)

ADVICE = {
    "weights_missing": "If the base is missing, an operator can import it again. If the adapter "
    "is, start a new job.",
    "weights_damaged": "Tell the operator, who can see with `ecolink models verify` which file it "
    "is. If it is the adapter's, start a new job.",
    "not_an_adapter": NEW_JOB,
    "adapter_unreadable": NEW_JOB,
    "adapter_mismatch": NEW_JOB,
    "adapter_not_finite": "Training went astray. Start a new job with a lower learning rate, or "
    "deploy an earlier checkpoint.",
    "unsupported_adapter": "Download it for use with PEFT, or start a new job with other target "
    "modules.",
    "base_unreadable": "An operator has to import the base again.",
    "unsupported_tokenizer": OTHER_BASE,
    "unsupported_architecture": OTHER_BASE,
    "load_failed": AGAIN,
    "no_room": "Undeploy what is not needed, or have the operator give serving more memory; then "
    "deploy it again.",
    "serving_died": "Make room for it: undeploy what is not needed, or have the operator give "
    "serving more memory; then deploy it again.",
    "base_not_deployed": "Deploy it again once its base is deployed.",
}
"""Of every reason that serving, and what deploys by itself, gives."""


def advice_on(code: str) -> str:
    """What to do about a failure, as sentences."""
    return ADVICE.get(code, AGAIN)
