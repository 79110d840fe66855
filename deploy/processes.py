"""The processes of EcoLink, and their environment variables."""

from __future__ import annotations

import json

from infrastructure import extensions
from infrastructure.extensions import installed, processes, selected
from infrastructure.settings import Settings

# Name -> `module:callable`, in start order. Each takes Settings and returns after SIGTERM.
PROCESSES: dict[str, str] = {
    "relay": "services.relay.app:run",
    "sealer": "services.sealer.app:run",
    "projector": "services.projector.app:run",
    "billing": "services.billing.app:run",
    "scheduler": "services.scheduler.app:run",
    "datasets": "services.datasets.app:run",
    "webhooks": "services.webhooks.app:run",
    "serving": "services.serving.app:run",
    "gateway": "gateway.app:run",
    # New ones come last, because ports of metrics follow this order.
    "exporter": "services.exporter.app:run",
    "trackers": "services.trackers.app:run",
    "synthesis": "services.synthesis.app:run",
}
RESERVED_PLACES = (8,)
"""Places of ports of metrics that processes of extensions have."""

PLACES = dict(zip(PROCESSES, (n for n in range(100) if n not in RESERVED_PLACES), strict=False))
PLACES |= {name: each.metrics_place for name, each in processes(installed()).items()}
"""Places of the ports of metrics after the first one, by process."""

PROCESSES |= {
    name: f"{extension.package}.{process.run}"
    for extension in selected()
    for name, process in extension.processes.items()
}


def environment(settings: Settings) -> dict[str, str]:
    """Return the settings as environment variables, without unset ones."""
    return extensions.environment() | {
        f"ECOLINK_{name.upper()}": json.dumps(value) if isinstance(value, dict) else str(value)
        for name, value in settings.model_dump().items()
        if value is not None
    }
