"""The processes that make up EcoLink, and the environment that a process is given."""

from __future__ import annotations

import json

from infrastructure.settings import Settings

# Name -> `module:callable`, which takes Settings and returns after SIGTERM. In order of starting.
PROCESSES: dict[str, str] = {
    "relay": "services.relay.app:run",
    "projector": "services.projector.app:run",
    "billing": "services.billing.app:run",
    "scheduler": "services.scheduler.app:run",
    "datasets": "services.datasets.app:run",
    "serving": "services.serving.app:run",
    "gateway": "gateway.app:run",
}


def environment(settings: Settings) -> dict[str, str]:
    """The settings as environment variables; those without a value are left out."""
    return {
        f"ECOLINK_{name.upper()}": json.dumps(value) if isinstance(value, dict) else str(value)
        for name, value in settings.model_dump().items()
        if value is not None
    }
