"""Advice on failed exports."""

from __future__ import annotations

AGAIN = "Export the model again. If this fails again, ask your operator."

ADVICE = {
    "base_missing": "Ask your operator to import the base model again.",
    "base_damaged": "Ask your operator to import the base model again.",
    "copy_damaged": "Ask your operator to check the disk of the exporter's cache.",
    "adapter_missing": "Start a new job.",
    "adapter_damaged": "Start a new job, and send this message to your operator.",
    "cannot_merge": "Download the adapter and use it with PEFT.",
    "cannot_convert": "Export the model as safetensors.",
    "no_space": "Ask your operator to free disk space, then export the model again.",
    "store_denied": "Ask your operator to check the rights of the exporter's key of the store.",
    "limit_exceeded": "Ask your operator to give the exporter more memory.",
}
"""Advice by failure code."""


def advice_on(code: str) -> str:
    """Return advice on a failure, in full sentences."""
    return ADVICE.get(code, AGAIN)
