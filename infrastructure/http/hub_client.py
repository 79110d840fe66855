"""Settings of huggingface_hub's client, which reads them when it is imported."""

from __future__ import annotations

ENVIRONMENT = {
    "HF_HUB_DISABLE_XET": "1",  # transfers need neither its cache nor its extra servers
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",  # never the token of the operator
}
