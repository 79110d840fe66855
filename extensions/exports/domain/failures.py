"""Advice on failed exports and pushes."""

from __future__ import annotations

EXPORT_AGAIN = "Export the model again. If this fails again, ask your operator."
PUSH_AGAIN = "Push the export again. If this fails again, ask your operator."

STORE_DENIED = "Ask your operator to check the rights of the exporter's key of the store."

EXPORT_ADVICE = {
    "base_missing": "Ask your operator to import the base model again.",
    "base_damaged": "Ask your operator to import the base model again.",
    "copy_damaged": "Ask your operator to check the disk of the exporter's cache.",
    "adapter_missing": "Start a new job.",
    "adapter_damaged": "Start a new job, and send this message to your operator.",
    "cannot_merge": "Download the adapter and use it with PEFT.",
    "cannot_convert": "Export the model as safetensors.",
    "no_space": "Ask your operator to free disk space, then export the model again.",
    "store_denied": STORE_DENIED,
    "limit_exceeded": "Ask your operator to give the exporter more memory.",
}
"""Advice on a failed export, by code."""

PUSH_ADVICE = {
    "unauthorized": "Check the token, and push again.",
    "forbidden": "Use a token that may write to the repository.",
    "no_repository": "Check the name of the repository and its owner.",
    "public_repository": "Make the repository private, choose another one, or push without the "
    "private option.",
    "invalid_name": "Use a name such as owner/model.",
    "timed_out": "Push the export again. EcoLink skips the large files that the hub has.",
    "no_space": "Ask your operator to free disk space, then push the export again.",
    "store_denied": STORE_DENIED,
    "export_deleted": "Export the model again.",
    "disabled": "Ask your operator.",
    "token_lost": "Push the export again.",
}
"""Advice on a failed push, by code."""


def export_advice(code: str) -> str:
    """Return advice on a failed export, in full sentences."""
    return EXPORT_ADVICE.get(code, EXPORT_AGAIN)


def push_advice(code: str) -> str:
    """Return advice on a failed push, in full sentences."""
    return PUSH_ADVICE.get(code, PUSH_AGAIN)
