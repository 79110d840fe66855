"""Advice on failed pushes."""

from __future__ import annotations

AGAIN = "Push the export again. If this fails again, ask your operator."

ADVICE = {
    "unauthorized": "Check the token, and push again.",
    "forbidden": "Use a token that may write to the repository.",
    "no_repository": "Check the name of the repository and its owner.",
    "public_repository": "Make the repository private, choose another one, or push without the "
    "private option.",
    "invalid_name": "Use a name such as owner/model.",
    "timed_out": "Push the export again. EcoLink skips the large files that the hub has.",
    "no_space": "Ask your operator to free disk space, then push the export again.",
    "store_denied": "Ask your operator to check the rights of the exporter's key of the store.",
    "export_deleted": "Export the model again.",
    "disabled": "Ask your operator.",
    "token_lost": "Push the export again.",
}
"""Advice by failure code."""


def push_advice(code: str) -> str:
    """Return advice on a failure, in full sentences."""
    return ADVICE.get(code, AGAIN)
