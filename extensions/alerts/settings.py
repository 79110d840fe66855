"""Settings of alerts."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from infrastructure.settings import Variables


class AlertSettings(Variables):
    """The variables of alerts."""

    alerts_file: Path | None = Field(
        default=None,
        description="TOML file with receivers of alerts, and with changed and additional alert "
        "rules. If unset, EcoLink stores alerts by the shipped rules, and notifies no one.",
    )
